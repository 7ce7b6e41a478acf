"""Assembly: settings to adapters to activities to a Temporal worker."""
