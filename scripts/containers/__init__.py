"""baton in containers: docker/plain on an ordinary Docker network, docker/virtio on Open vSwitch with DPDK.

    stack.py    a Compose project: up, down, its members, its client
    switch.py   what the switch between them says of itself
    show.py     what is done to it, and what has to hold
"""
