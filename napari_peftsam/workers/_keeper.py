"""What watches over one local worker process; imported only where there are workers."""

from __future__ import annotations

from distributed import Nanny

__all__ = ["WorkerKeeper"]

_PATIENCE = 60.0  # seconds


class WorkerKeeper(Nanny):
    """Starts a worker process, starts it again when it dies, and ends it at once when told to.

    dask's own waits some seconds for the running task, then fails if a busy computer takes
    some more to end the process. Our tasks may be abandoned at any point.
    """

    async def kill(self, timeout: float = _PATIENCE, reason: str = "nanny-kill") -> None:
        """End the process, which may take `timeout` seconds."""
        if self.process is not None:
            await self.process.kill(
                timeout=max(timeout, _PATIENCE), executor_wait=False, reason=reason
            )
