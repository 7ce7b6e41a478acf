"""The pure core: nouns, decisions, ports. It needs no Temporal, no network and no clock."""
