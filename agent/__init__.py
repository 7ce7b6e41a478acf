"""One small process a data center: keeps the lease, obeys intents, and tells the brokers what they may accept."""
