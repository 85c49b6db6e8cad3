import numpy as np
import pytest
import torch
from torch import nn

from fedinfer.config import ModelSection, Tune
from fedinfer.errors import ConfigError
from fedinfer.schema import Categorical, Numeric, Schema, Text
from fedinfer.training.models.build import build_model
from fedinfer.training.models.preprocess import FieldPrepare, PixelPrepare, SeriesPrepare, TablePrepare, TokenPrepare
from fedinfer.training.update import get_vector, set_vector, tuned_parameters
from tests.unit.training.factories import BY_KIND, DIGITS, SERIES, SHOP, TABLE, TEXT, rows

HERE = "tests.unit.training.factories"
NAN = float("nan")


def build(kind, seed=1, **changes):
    return build_model(ModelSection(kind=kind, **{"hidden": (8, 12)} | changes), BY_KIND[kind], seed)


@pytest.mark.parametrize("kind", BY_KIND)
def test_raw_rows_give_finite_logits(kind):
    schema = BY_KIND[kind]
    model = build(kind)
    x, _ = rows(schema, 9, 0)
    with torch.no_grad():
        logits = model(torch.from_numpy(x))
        broken = model(torch.full((2, schema.width), NAN))
        extreme = model(torch.full((2, schema.width), float("inf")))
    assert logits.shape == (9, schema.outputs)
    for values in (logits, broken, extreme):
        assert bool(values.isfinite().all())


@pytest.mark.parametrize("kind", BY_KIND)
def test_rows_do_not_see_each_other(kind):
    x, _ = rows(BY_KIND[kind], 6, 1)
    model = build(kind)
    with torch.no_grad():
        together = model(torch.from_numpy(x))
        alone = torch.cat([model(torch.from_numpy(x[i : i + 1])) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", BY_KIND)
def test_start_weights_follow_from_the_seed_alone(kind):
    before = torch.get_rng_state()
    a = get_vector(build(kind, seed=5), Tune.ALL)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    b, c = get_vector(build(kind, seed=5), Tune.ALL), get_vector(build(kind, seed=6), Tune.ALL)
    np.testing.assert_array_equal(a, b)
    assert kind in ("logistic", "linear", "additive") or not np.array_equal(a, c)


@pytest.mark.parametrize("kind", BY_KIND)
def test_prepare_has_no_parameters_and_no_state(kind):
    model = build(kind)
    assert list(model.prepare.parameters()) == []
    assert all(name.startswith("core.") for name in model.state_dict())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("kind", BY_KIND)
def test_head_is_the_tail_of_the_vector(kind):
    model = build(kind)
    whole, head = get_vector(model, Tune.ALL), get_vector(model, Tune.HEAD)
    np.testing.assert_array_equal(whole[whole.size - head.size :], head)
    last = tuned_parameters(model.core, Tune.HEAD)
    assert last[0].shape[0] == BY_KIND[kind].outputs
    assert len(last) == 2


def test_vector_goes_in_and_out():
    model = build("mlp")
    wanted = np.arange(get_vector(model, Tune.ALL).size, dtype=np.float32)
    set_vector(model, wanted, Tune.ALL)
    np.testing.assert_array_equal(get_vector(model, Tune.ALL), wanted)
    head = np.full(get_vector(model, Tune.HEAD).size, 7, dtype=np.float32)
    set_vector(model, head, Tune.HEAD)
    np.testing.assert_array_equal(get_vector(model, Tune.ALL), [*wanted[: -head.size], *head])
    with pytest.raises(ConfigError, match=r"\(3,\)"):
        set_vector(model, np.zeros(3, np.float32), Tune.ALL)


def test_get_vector_is_a_copy():
    model = build("mlp")
    taken = get_vector(model, Tune.ALL)
    kept = taken.copy()
    set_vector(model, np.zeros_like(taken), Tune.ALL)
    np.testing.assert_array_equal(taken, kept)


def test_table_is_clamped_scaled_and_flagged():
    prepare = TablePrepare(TABLE)
    x = torch.tensor([[50, 0.5, 1], [200, -9, 2], [NAN, NAN, NAN], [0, 1, 3], [0, 1, -1], [0, 1, 0.5]])
    expected = [  # age, bp | their flags | f, m, x | flag
        [0, 0.5, 0, 0, 0, 1, 0, 0],
        [1, -1, 0, 0, 0, 0, 1, 0],
        [0, 0, 1, 1, 0, 0, 0, 1],
        [-1, 1, 0, 0, 0, 0, 0, 1],
        [-1, 1, 0, 0, 0, 0, 0, 1],
        [-1, 1, 0, 0, 0, 0, 0, 1],
    ]
    assert prepare.features == 8
    torch.testing.assert_close(prepare(x), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    "columns", [(Numeric("a", 0, 1),), (Categorical("c", ("p", "q")),)], ids=["numbers only", "categories only"]
)
def test_tables_of_one_type(columns):
    prepare = TablePrepare(Schema(columns, "y", ("n", "y")))
    assert prepare(torch.tensor([[1.0], [NAN]])).shape == (2, prepare.features)


def test_pixels_are_clamped_to_the_unit_interval():
    prepared = PixelPrepare(16.0, (1, 2, 2))(torch.tensor([[8.0, 32.0, -1.0, NAN]]))
    torch.testing.assert_close(prepared, torch.tensor([[[[0.5, 1.0], [0.0, 0.0]]]]))


def test_standardized_images_do_not_know_brightness_and_contrast_and_all_weigh_alike():
    prepare = PixelPrepare(16.0, (1, 2, 2), standardized=True)
    rows = torch.tensor([[8.0, 12.0, 4.0, 6.0], [4.0, 6.0, 2.0, 3.0], [9.0, 13.0, 5.0, 7.0], [7.0, 7.0, 7.0, 7.0]])
    prepared = prepare(rows).flatten(1)
    torch.testing.assert_close(prepared[1], prepared[0])
    torch.testing.assert_close(prepared[2], prepared[0])
    torch.testing.assert_close(prepared[:3].norm(dim=1), torch.full((3,), 4.0))
    torch.testing.assert_close(prepared.sum(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
    assert not prepared[3].any(), "an image of one shade has nothing to say"
    torch.testing.assert_close(prepare(rows[:1]).flatten(1)[0], prepared[0])


def test_only_images_are_standardized():
    for section, schema in ((ModelSection(), TABLE), (ModelSection(kind="tcn"), BY_KIND["tcn"])):
        with pytest.raises(ConfigError, match="no image to standardize"):
            build_model(section.model_copy(update={"pixels": "standardized"}), schema, 1)


def test_series_keep_their_channels_and_each_its_range():
    columns = (Numeric("x0", 0, 2), Numeric("x1", 0, 2), Numeric("y0", 0, 20), Numeric("y1", 0, 20))
    schema = Schema(columns, "m", ("a", "b"), (2, 1, 2))
    prepared = SeriesPrepare(schema, 2, 2)(torch.tensor([[0.0, 1.0, 20.0, NAN]]))
    torch.testing.assert_close(prepared, torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]]))


def test_tokens_out_of_the_vocabulary_are_padding():
    tokens = TokenPrepare(9, 0)(torch.tensor([[0.0, 3.0, 9.0, 10.0, -1.0, 2.5, NAN]]))
    assert tokens.tolist() == [[0, 3, 9, 0, 0, 0, 0]]
    indices = TokenPrepare(2, 1)(torch.tensor([[0.0, 1.0, 2.0, NAN]]))
    assert indices.tolist() == [[1, 2, 0, 0]]


def test_fields_own_separate_rows_with_one_for_missing():
    prepare = FieldPrepare(SHOP)
    prepared = prepare(torch.tensor([[0.0, 12.0, 5.0], [NAN, 24.0, 6.0]]))
    assert (prepare.fields, prepare.numbers, prepare.rows) == (2, 1, 14)
    torch.testing.assert_close(prepared, torch.tensor([[1.0, 13.0, 0.0], [0.0, 7.0, 1.0]]))


@pytest.mark.parametrize("kind", ["bag", "transformer"])
def test_padding_does_not_change_a_text(kind):
    model = build(kind)
    short = torch.tensor([[5.0, 7.0, 0, 0, 0, 0, 0, 0, 0, 0]])
    odd = torch.tensor([[5.0, 7.0, NAN, 99.0, 0, 0, 0, 0, 0, -4.0]])
    with torch.no_grad():
        torch.testing.assert_close(model(short), model(odd))


def test_native_recurrence_is_the_same_function():
    model = build("gru")
    x, _ = rows(SERIES, 5, 2)
    prepared = model.prepare(torch.from_numpy(x))
    with torch.no_grad():
        torch.testing.assert_close(model.core[0].native()(prepared), model.core[0](prepared))


@pytest.mark.parametrize(
    ("kind", "schema", "rule"),
    [
        ("cnn", TABLE, "needs images"),
        ("tcn", DIGITS, "channels, 1, length"),
        ("tcn", SHOP, "numeric columns only"),
        ("gru", Schema(SERIES.columns, "m", ("a", "b"), (2, 1, 12)), "24 columns, got 36"),
        ("bag", TABLE, "one vocabulary"),
        ("transformer", DIGITS, "needs a text column"),
        ("mlp", TEXT, "cannot read texts"),
        ("cnn", TEXT, "cannot read texts"),
        ("recommender", Schema((Numeric("a", 0, 1),), "y", ("n", "y")), "categorical column"),
    ],
)
def test_kind_that_does_not_fit_the_schema(kind, schema, rule):
    with pytest.raises(ConfigError, match=rule):
        build_model(ModelSection(kind=kind), schema, 0)


def test_recommender_of_categories_alone():
    schema = Schema((SHOP.columns[0],), "like", ("no", "yes"))
    model = build_model(ModelSection(kind="recommender", hidden=(4,)), schema, 0)
    assert model(torch.tensor([[0.0], [NAN]])).shape == (2, 2)


def test_images_may_be_flattened():
    assert build_model(ModelSection(kind="mlp", hidden=(4,)), DIGITS, 0)(torch.zeros(3, 64)).shape == (3, 10)


def test_sequences_need_a_size():
    with pytest.raises(ConfigError, match="at least one size"):
        build("gru", hidden=())


def test_vocabulary_from_categories():
    words = Categorical("w0", ("cat", "dog")), Categorical("w1", ("cat", "dog"))
    model = build_model(ModelSection(kind="bag", hidden=(4,)), Schema(words, "y", ("n", "y")), 0)
    assert model.core[0].table.num_embeddings == 3


def test_one_channel_series():
    single = Schema(SERIES.columns, "m", ("a", "b"))
    assert build_model(ModelSection(kind="tcn", hidden=(4,)), single, 0).core[0].in_channels == 1
    bare = Schema((), "m", ("a", "b"), (1, 1, 10), 29.0)
    assert build_model(ModelSection(kind="tcn", hidden=(4,)), bare, 0).core[0].in_channels == 1


def test_user_factory_becomes_the_core():
    model = build_model(ModelSection(factory=f"{HERE}:residual"), TABLE, 0)
    assert type(model.core).__name__ == "Residual"
    assert model(torch.zeros(2, 3)).shape == (2, 2)


def test_a_factory_that_takes_raw_rows_gets_them_within_their_ranges():
    schema = Schema((Numeric("age", 20, 80), Categorical("sex", ("f", "m"))), "y", ("no", "yes"))
    prepare = build_model(ModelSection(factory=f"{HERE}:raw_linear"), schema, 0).prepare
    seen = prepare(torch.tensor([[30.0, 1.0], [NAN, NAN], [-float("inf"), 9.0], [90.0, 0.0]]))
    assert seen.tolist() == [[30, 1], [50, 0], [20, 1], [80, 0]]
    pixels = Schema((), "y", ("no", "yes"), shape=(1, 1, 2), pixel_max=16.0)
    prepare = build_model(ModelSection(factory=f"{HERE}:raw_linear"), pixels, 0).prepare
    assert prepare(torch.tensor([[NAN, 20.0]])).tolist() == [[0, 16]]
    text = Schema((Text("said", 2, ("good",)),), "y", ("no", "yes"))
    assert build_model(ModelSection(factory=f"{HERE}:raw_linear"), text, 0).prepare(
        torch.tensor([[NAN, 3.0]])
    ).tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("absent_package.module:f", "cannot be imported"),
        (f"{HERE}:absent", "no callable 'absent'"),
        (f"{HERE}:NOT_CALLABLE", "no callable"),
        (f"{HERE}:not_a_module", "returned int"),
        (f"{HERE}:raising", "no weights today"),
        (f"{HERE}:with_batch_norm", "BatchNorm"),
        (f"{HERE}:in_double", "float32"),
        (f"{HERE}:without_parameters", "0 parameters"),
    ],
)
def test_factory_that_cannot_be_used_names_the_key(path, rule):
    with pytest.raises(ConfigError, match=rule) as caught:
        build_model(ModelSection(factory=path), TABLE, 0)
    assert "model.factory" in str(caught.value)
