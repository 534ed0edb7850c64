"""Normalises images as a checkpoint needs them: its own constants, or those that the options name for plain weights."""

from __future__ import annotations

from dataclasses import replace

from xeval.checkpoints.load import LoadedModel
from xeval.checkpoints.normalization import KEY, identity, same_constants, told
from xeval.checkpoints.own import own_source, with_constants
from xeval.data import DatasetInfo
from xeval.errors import UsageError
from xeval.scoring.options import ScoreOptions


def normalized(
    loaded: LoadedModel, own: DatasetInfo, options: ScoreOptions, *, measured: bool
) -> tuple[LoadedModel, DatasetInfo]:
    """Return the data set with the constants that the network needs, and the network as these constants identify it.

    ``own`` has the data set's own constants, ``measured`` on its images or published. Under published ones, and those
    that it was trained with here, weights alone identify a network. Under any others the same weights are another
    network: its rows are never taken for those of the first.

    Raises:
        UsageError: other constants are asked for than those of training, or nothing says which to take.
    """
    info, source = _constants(loaded, own, options, measured=measured)
    usual = not measured or (loaded.card is not None and not loaded.card.recipe.get(KEY))
    sha256 = loaded.sha256 if usual and same_constants(info, own) else identity(loaded.sha256, info)
    sentence = told(info, source) if source else ""
    notes = (*loaded.notes, sentence) if sentence else loaded.notes
    return replace(loaded, sha256=sha256, normalization=sentence, notes=notes), info


def _constants(
    loaded: LoadedModel, own: DatasetInfo, options: ScoreOptions, *, measured: bool
) -> tuple[DatasetInfo, str]:
    """Return the data set under the right constants, and their source: empty where a run simply has the data set's."""
    wish, card = options.normalization, loaded.card
    if card is None:
        if options.normalize_from_ckpt:
            raise UsageError(f"{loaded.path} carries no constants of training", "leave out --normalize-from-ckpt")
        if loaded.own is not None and not wish.given:
            return with_constants(own, loaded.own), own_source(loaded.spec.arch if loaded.spec else "")
        source = wish.source if wish.given else f"published for {own.name}"
        return wish.for_plain_weights(own, measured=measured), source
    trained = wish.for_trained(own, card.dataset)
    if kept := card.recipe.get(KEY):
        return trained, own_source(card.model.arch) if kept == "network" else str(kept)
    return (trained, "those of training") if wish.given or options.normalize_from_ckpt else (own, "")
