"""What a drafter goes through before it drafts: checks, and work that can be done beside running steps."""

from __future__ import annotations

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.runners.base import Runner
from online_draft.errors import ConfigError
from online_draft.models.drafter import Drafter, DraftState


class Staging:
    """Checks drafters for one engine and makes their states; the one that was staged last has its ready."""

    def __init__(self, config: EngineConfig, max_context: int) -> None:
        self._config = config
        self._max_context = max_context
        self._staged: tuple[Drafter, DraftState] | None = None

    def check(self, drafter: Drafter) -> None:
        """Raise ConfigError for one that can't draft in this engine."""
        positions = drafter.max_positions
        if positions is not None and positions < self._max_context:
            raise ConfigError(
                "engine.max_context",
                f"must be at most the drafter's {positions} positions, is {self._max_context}",
            )
        if drafter.config.window > self._config.feature_window:
            raise ConfigError(
                "engine.feature_window",
                f"must be at least the drafter's window of {drafter.config.window} rows",
            )

    def stage(self, drafter: Drafter, runner: Runner) -> None:
        """Make the state of a drafter that will draft on this runner. From any thread."""
        self.check(drafter)
        state = drafter.new_state(self._config.max_sequences)
        runner.stage(drafter, state)
        self._staged = drafter, state

    def state_of(self, drafter: Drafter) -> DraftState:
        """The state of a checked drafter: the staged one, given out once, else a new one."""
        self.check(drafter)
        staged = self._staged
        if staged is not None and staged[0] is drafter:
            self._staged = None
            return staged[1]
        return drafter.new_state(self._config.max_sequences)
