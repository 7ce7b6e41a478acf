"""Send clients to the target."""

from __future__ import annotations

from temporalio import activity

from activities.step import Steps, Stopwatch
from dcdr.errors import NotYetError
from dcdr.lease import Standing
from dcdr.model import StepInput, StepResult


class EndpointActivities(Steps):
    """`flip`: only after the target was opened, so that no client is ever sent to a closed side."""

    @activity.defn(name="endpoint.flip")
    async def flip(self, step: StepInput) -> StepResult:
        """Point the bootstrap endpoint at the target, carrying the new epoch; an older epoch is refused there."""
        async with self.holding(step.operation, Standing.MOVED) as scope:
            watch = Stopwatch()
            target, epoch = step.operation.target, step.operation.epoch + 1
            await scope.endpoint.flip(target, epoch)
            took = watch.so_far()
            view = await scope.endpoint.read()
            if (view.dc, view.epoch) != (target, epoch):
                raise NotYetError(
                    f"the endpoint names {view.dc}, epoch {view.epoch}, after it was set to {target}, {epoch}"
                )
            return StepResult(**took, note=f"clients bootstrap from {target}")
