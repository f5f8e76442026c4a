"""baton's testbed: a cluster on one machine, in network namespaces.

A real Linux bridge is the switch, real nginx servers are the services, real kernel TCP stacks are the clients. Every
check of `checks/` builds its own testbed, drives it, judges what it saw by captures on every bridge port as well as
by what the clients report, and takes it down again. Run from the repository as

    PYTHONPATH=scripts python3 -m testbed list
    PYTHONPATH=scripts python3 -m testbed check http-1000

docs/testbed.md says more.
"""
