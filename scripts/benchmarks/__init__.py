"""Benchmarks: what a file of configs/bench/ describes, measured.

    scripts/bench configs/bench/pcap-foreign.yaml

In the order of a run: `document` reads the file and knows its lines, `plan` says what may be in it, `throughput`,
`latency` and `failover` measure (each with its own systems), `results` makes JSON and a table of it, `plot` a picture.
docs/benchmarks.md says how to write one.
"""
