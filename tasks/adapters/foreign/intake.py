"""Take in a model that was trained elsewhere: check that it can be served for this model's file, and wrap it as fitted.

A check is made on real rows: the columns that the model reads, its task and its classes must be those of the file, and its
predictions must have the shape of the task. A model that may run code is refused unless the file says `training.trust`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.foreign import artefact as artefacts, class_order
from tasks.adapters.foreign.artefact import FORMATS, Artefact
from tasks.adapters.foreign.scorer import ForeignScorer, GivenColumns, build
from tasks.adapters.models import eligibility
from tasks.adapters.models.encoding import Encoding, FeatureEncoder, label_classes
from tasks.adapters.models.estimators import Fitted
from tasks.policy.comparison.predictions import prediction_fault
from tasks.policy.records.errors import FeatureError, ForeignModelError, ModelRaised
from tasks.policy.records.text import raised, without_secrets

CHECKED_ROWS = 200
"""Rows that a model must predict before it is taken in."""


def take_in(config: ModelConfig, address: str, rows: pa.Table) -> Fitted:
    """Fetch the model at `address`, check it on `rows` of this model, and return it as if it had been fitted here.

    `rows` have the columns of the file; their labels give the classes. Raises ForeignModelError naming what does not fit, and
    FeatureError if the rows lack a feature.
    """
    found = artefacts.fetch(address)
    _check_trust(config, found, address)
    try:
        scorer = _scorer(config, found, rows)
    except (ForeignModelError, RuntimeError) as error:
        raise ForeignModelError(f"{config.name}: {without_secrets(address)}: {error}") from None
    return Fitted(
        scorer,
        parameters={**found.lineage, "format": found.format},
        metrics={},
        importance={},
        rounds=None,
        fitted_rows=0,
        held_back_rows=0,
        rows=len(rows),
    )


def _check_trust(config: ModelConfig, found: Artefact, address: str) -> None:
    if found.runs_code and not config.training.trust:
        raise ForeignModelError(
            f"{config.name}: {without_secrets(address)} is {FORMATS[found.format]}, which can run any code when loaded, so it "
            "was not opened; expected a skops, ONNX, XGBoost, LightGBM or CatBoost file; or, if you trust who made it, "
            "training.trust: true in the model's file"
        )


def _scorer(config: ModelConfig, found: Artefact, rows: pa.Table) -> ForeignScorer:
    if len(rows) == 0:
        raise ForeignModelError("there are no rows to check it on, expected some of this model; name other data")
    encoding = FeatureEncoder(config.columns.features).fit(rows).encoding_
    _check_columns(encoding, found.columns, "its signature")
    inputs = GivenColumns(_types(rows, encoding), _ranges(rows, encoding), encoding.names)
    scorer = build((found.format, config.task, ()), found.files, encoding, inputs)
    _check_task(config, scorer)
    own = scorer.estimator.features
    _check_columns(encoding, own or (), f"its {scorer.estimator.name}")
    scorer = replace(
        scorer,
        inputs=replace(inputs, given=own or found.columns or encoding.names),
        classes=_classes(config, rows, scorer.estimator.classes),
        coded=class_order.coded_classes(config, rows.column(config.columns.label))
        if config.task != "regression"
        else (),
    )
    drawn = rows.slice(0, CHECKED_ROWS)
    complete = _complete(drawn, encoding.names)
    _check_predictions(scorer, complete if len(complete) else drawn)
    _check_order(config, scorer, _complete(rows, encoding.names))
    return replace(scorer, inputs=replace(scorer.inputs, accepts_nulls=_accepts_nulls(scorer, drawn)))


def _check_columns(encoding: Encoding, needed: Sequence[str], who: str) -> None:
    missing = [name for name in needed if name not in encoding.names]
    if missing:
        raise ForeignModelError(
            f"{who} reads {', '.join(missing)}, which columns.features does not list; expected among its features "
            f"{', '.join(encoding.names)}; list {'it' if len(missing) == 1 else 'them'}, in the names of the source"
        )


def _check_task(config: ModelConfig, scorer: ForeignScorer) -> None:
    trained_for = scorer.estimator.task
    if trained_for is not None and trained_for != config.task:
        raise ForeignModelError(
            f"its {scorer.estimator.name} was trained for {trained_for}, expected task {config.task} as the model's file says"
        )


def _classes(config: ModelConfig, rows: pa.Table, own: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the classes in the order of the model's file. Raises ForeignModelError if the model knows others."""
    classes = eligibility.classes_of(config, rows.column(config.columns.label))
    if not classes:
        return classes
    if own is None or class_order.are_codes(own, len(classes)):
        return classes
    columns = config.columns
    named = label_classes(
        pa.chunked_array([pa.array(own, pa.string())]),
        columns.positive_label,
        columns.named_classes,
        config.task == "binary",
    )
    if len(own) < len(classes) or not set(classes) <= set(named) or (config.task == "binary" and len(own) != 2):
        raise ForeignModelError(
            f"it knows {len(own)} classes ({', '.join(own[:5])}), expected the {len(classes)} of {columns.label}: "
            f"{', '.join(classes[:5])}"
        )
    return named


def _check_order(config: ModelConfig, scorer: ForeignScorer, rows: pa.Table) -> None:
    """Refuse a classifier that does not name its classes, and fits the labels only with them in another order."""
    order = scorer.order_of_classes if scorer.classes else None
    if order is None or (scorer.estimator.classes is not None and not order.are_codes):
        return
    if fault := class_order.order_fault(scorer, order, rows, config.columns.label):
        raise ForeignModelError(fault)


def _check_predictions(scorer: ForeignScorer, rows: pa.Table) -> None:
    try:
        predicted = scorer.predict(rows)
    except FeatureError:
        raise
    except Exception as error:  # noqa: BLE001 a model of another team may raise anything
        raise ForeignModelError(f"it cannot predict rows of this model ({raised(error)})") from None
    fault = prediction_fault(predicted, len(rows), scorer.task)
    if fault:
        raise ForeignModelError(f"its predictions cannot be used: {fault}")
    if scorer.task != "regression" and scorer.estimator.may_give_labels and np.isin(predicted, (0, 1)).all():
        raise ForeignModelError(
            f"its predictions for {len(rows)} rows are all 0 or 1, which are classes, expected probabilities; store a model "
            "whose predict gives the probabilities, or a scikit-learn classifier with predict_proba"
        )


def _accepts_nulls(scorer: ForeignScorer, rows: pa.Table) -> bool:
    """Whether it gives a finite prediction for rows with a null in every feature, and with one in each.

    An exception of the model means no. Raises ForeignModelError if it reaches a limit, or its process ends.
    """
    some = rows.slice(0, len(scorer.encoding.names) + 1)
    columns = {}
    for place, name in enumerate(scorer.encoding.names):
        blank = pa.array([number in (0, place + 1) for number in range(len(some))])
        column = some.column(name).combine_chunks()
        columns[name] = pc.if_else(blank, pa.scalar(None, column.type), column)
    try:
        predicted = scorer.predict(pa.table(columns))
    except Exception as error:  # noqa: BLE001 as above
        cause = error.__cause__
        if isinstance(error, MemoryError) or (
            isinstance(cause, ForeignModelError) and not isinstance(cause, ModelRaised)
        ):
            raise ForeignModelError(
                f"given rows with nulls, {str(error) or 'it runs out of memory'}; fill nulls inside the model, such as by a "
                "SimpleImputer in its pipeline, or let it raise an exception for them"
            ) from None
        logging.getLogger(__name__).warning("it is taken to accept no nulls, as it %s for them", raised(error))
        return False
    return prediction_fault(predicted, len(some), scorer.task) is None


def _complete(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    known = np.ones(len(rows), bool)
    for name in names:
        known &= pc.is_valid(rows.column(name)).to_numpy()
    return rows.filter(pa.array(known))


def _types(rows: pa.Table, encoding: Encoding) -> dict[str, str]:
    """Return the Arrow type of each feature, by its alias; decimals, dictionaries and views as the plain type."""
    defaults = {"numeric": "double", "categorical": "string", "boolean": "bool"}
    found = {}
    for name, kind in encoding.features:
        own = rows.schema.field(name).type
        own = own.value_type if pa.types.is_dictionary(own) else own
        plain = (
            pa.types.is_integer(own) or pa.types.is_boolean(own) or (pa.types.is_floating(own) and kind == "numeric")
        )
        found[name] = str(own) if plain else defaults[kind]
    return found


def _ranges(rows: pa.Table, encoding: Encoding) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest finite value of each numeric feature."""
    found = {}
    for name, kind in encoding.features:
        if kind != "numeric":
            continue
        values = rows.column(name).cast(pa.float64()).to_numpy()
        values = values[np.isfinite(values)]
        found[name] = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return found
