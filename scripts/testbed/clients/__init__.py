"""Clients of the virtual IP: what drives the cluster and reports, connection by connection, what it got."""
