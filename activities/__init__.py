"""One step each: what is done, idempotently, over the ports; how is the adapters' affair."""
