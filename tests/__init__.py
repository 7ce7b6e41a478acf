"""How we know: unit, contract, workflow, integration and chaos tests, and the runner that CI calls."""
