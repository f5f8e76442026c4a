"""Bare metal, rehearsed: members in virtual machines, each with a kernel and a PCI network card of its own.

The switch, the clients, the captures and the checks are the testbed's (`scripts/testbed`); only the members are not in
namespaces but in small machines of qemu, whose card is a port of the testbed's bridge. Run from the repository as

    scripts/vm-rehearsal --nic virtio-net-pci
    scripts/vm-rehearsal --nic e1000e --driver uio_pci_generic http-1000

docs/bare-metal.md says more.
"""
