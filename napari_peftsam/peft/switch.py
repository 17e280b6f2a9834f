"""Several adapters of one model, of which one at most is live."""

from __future__ import annotations

from napari_peftsam.lru import Recent
from napari_peftsam.models import SamModel
from napari_peftsam.peft.adapter import Adapter, apply_adapter
from napari_peftsam.peft.inject import Injection, check_strength

__all__ = ["AdapterSwitch"]

_PREPARED = 4  # adapters kept ready; with tuned weights each may be as large as the model


class AdapterSwitch:
    """Makes one adapter after another live in a model, without building anything twice.

    Parameters
    ----------
    model
        It must carry no adapter, and nobody else may inject one meanwhile.
    """

    def __init__(self, model: SamModel) -> None:
        self.model = model
        self._live: Adapter | None = None
        self._injections: Recent[str, Injection] = Recent(_PREPARED)

    @property
    def live(self) -> Adapter | None:
        """The adapter in the model; None for the bare base."""
        return self._live

    @property
    def injection(self) -> Injection | None:
        """The injection of the live adapter; None for the bare base."""
        return None if self._live is None else self._injections.get(self._live.digest)

    @property
    def strength(self) -> float:
        """Factor on the live adapter's changes; 1 for the bare base."""
        return 1.0 if self.injection is None else self.injection.strength

    def use(self, adapter: Adapter | None, strength: float = 1.0) -> None:
        """Make an adapter live, or the bare base; if that fails, all stays as it was.

        The first time takes as long as `apply_adapter`; later the modules made then are put
        back into their places.

        Parameters
        ----------
        adapter
            None for the bare base model, bit for bit.
        strength
            Factor on the adapter's changes, see `Injection.set_strength`.

        Raises
        ------
        AdapterMismatchError
            If the adapter belongs to another base or is damaged.
        ConfigurationError
            If it cannot have this strength.
        """
        check_strength(strength)
        before, before_strength = self._live, self.strength
        self._take_out()
        try:
            self._put_in(adapter, strength)
        except BaseException:
            self._take_out()
            self._put_in(before, before_strength)
            raise

    def _take_out(self) -> None:
        if self.injection is not None:
            self.injection.set_strength(0)
        self._live = None

    def _put_in(self, adapter: Adapter | None, strength: float) -> None:
        if adapter is None:
            return
        injection = self._injections.get(adapter.digest)
        if injection is None:
            injection = apply_adapter(self.model, adapter)
            for unused in self._injections.put(adapter.digest, injection).values():
                unused.remove()
        self._live = adapter
        injection.set_strength(strength)
