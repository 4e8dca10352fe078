"""The sandbox over HTTP: service, client, wire format and metrics."""
