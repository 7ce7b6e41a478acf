"""The order of steps. Nothing here touches the network: activities do."""
