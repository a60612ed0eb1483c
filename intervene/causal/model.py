"""`CausalModel`: variables, their parents, and the functions that compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import CausalModelError, did_you_mean
from . import datasets, graph, influence, sampling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Setting = dict[str, Any]
Domain = Sequence[Any] | Callable[[Any], Any]
"""A variable's values, or a function that draws one with the `random.Random` it is given."""


class CausalModel:
    """A deterministic causal model over named variables, as in causal abstraction.

    Each variable has a domain, parents, and a function of its parents' values (in their order). Variables without
    parents are the inputs, those without children the outputs. Setting a variable overrides its function; setting
    it to the value that it takes on another input is an *interchange intervention* (Geiger et al. 2021, "Causal
    Abstractions of Neural Networks", https://arxiv.org/abs/2106.02997; 2022, "Inducing Causal Structure for
    Interpretable Neural Networks", https://arxiv.org/abs/2112.00826; 2023, "Finding Alignments Between
    Interpretable Causal Variables and Distributed Neural Representations", https://arxiv.org/abs/2303.02536).

    >>> model = CausalModel(
    ...     variables=["a", "b", "c", "a=b", "out"],
    ...     values={"a": [0, 1], "b": [0, 1], "c": [False, True], "a=b": [False, True], "out": [False, True]},
    ...     parents={"a": [], "b": [], "c": [], "a=b": ["a", "b"], "out": ["a=b", "c"]},
    ...     functions={
    ...         "a": lambda: 0, "b": lambda: 0, "c": lambda: False,
    ...         "a=b": lambda a, b: a == b, "out": lambda equal, c: equal and c,
    ...     },
    ... )
    >>> base, source = {"a": 0, "b": 0, "c": True}, {"a": 0, "b": 1, "c": True}
    >>> model.run_forward(base)["out"]
    True
    >>> model.run_interchange(base, {"a=b": source})["out"]
    False

    Attributes:
        variables: the variables in the order they are computed.
        values: each variable's domain: a list, or for a continuous one a function that draws a value with the
            `random.Random` it is given.
        parents, children: each variable's neighbours.
        functions: each variable's function of its parents' values; an input's takes nothing and gives its default.
        inputs, outputs: the variables without parents, and without children, sorted by name.
        timesteps: each variable's place in time, later than all its parents'.
        equiv_classes: where known, for each variable and value the settings of its parents that give it.
        pos: where each variable is drawn, (x, y).
    """

    def __init__(
        self,
        variables: Sequence[str],
        values: Mapping[str, Domain],
        parents: Mapping[str, Sequence[str]],
        functions: Mapping[str, Callable[..., Any]],
        timesteps: Mapping[str, int] | None = None,
        equiv_classes: Mapping[str, Mapping[Any, list[Setting]]] | None = None,
        pos: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Nothing that is passed in is kept or changed.

        Raises:
            CausalModelError: a variable without domain, parents or function, an unknown parent, a cycle, a function
                that doesn't take its parents, or timesteps at odds with the parents.
        """
        graph.check(variables, values, parents, functions)
        self.values: dict[str, Any] = {v: d if callable(d) else list(d) for v, d in values.items()}
        self.parents: dict[str, list[str]] = {v: list(parents[v]) for v in variables}
        self.functions: dict[str, Callable[..., Any]] = {v: functions[v] for v in variables}
        self.children = graph.children(self.parents)
        self.timesteps = graph.timesteps(self.parents, timesteps)
        names = sorted(variables)
        self.inputs = [v for v in names if not self.parents[v]]
        self.outputs = [v for v in names if not self.children[v]]
        self.variables = sorted(names, key=lambda v: self.timesteps[v])
        self.equiv_classes: dict[str, dict[Any, list[Setting]]] = {
            v: dict(classes) for v, classes in (equiv_classes or {}).items()
        }
        self.pos = graph.layout(self.variables, self.timesteps, pos)

    @property
    def intermediates(self) -> list[str]:
        """The variables between inputs and outputs, in the order they are computed."""
        return [v for v in self.variables if self.parents[v] and self.children[v]]

    def run_forward(self, intervention: Mapping[str, Any] | None = None) -> Setting:
        """Compute every variable, those in ``intervention`` fixed to the values given there.

        Inputs that are left out take their default.

        Returns:
            The value of each variable.

        Raises:
            CausalModelError: a variable that the model doesn't have.
        """
        fixed = intervention or {}
        self._known(fixed)
        setting: Setting = {}
        for variable in self.variables:
            if variable in fixed:
                setting[variable] = fixed[variable]
            else:
                setting[variable] = self.functions[variable](*(setting[p] for p in self.parents[variable]))
        return setting

    def run_interchange(
        self, input: Mapping[str, Any], source_interventions: Mapping[str, Mapping[str, Any]]
    ) -> Setting:
        """Run ``input`` with each variable of ``source_interventions`` set to its value in a run of its own source.

        Args:
            input: the base: a value for each input variable (or for others that are to be fixed).
            source_interventions: variable -> the input of the run that its value comes from.

        Returns:
            The value of each variable.
        """
        self._known(source_interventions)
        taken = {v: self.run_forward(source)[v] for v, source in source_interventions.items()}
        return self.run_forward({**input, **taken})

    def enumerate_inputs(self) -> Iterator[Setting]:
        """Every combination of the inputs' values, the last input's changing fastest."""
        for values in product(*(sampling.listed(self, v) for v in self.inputs)):
            yield dict(zip(self.inputs, values, strict=True))

    def add_variable(
        self,
        variable: str,
        values: Domain,
        parents: Sequence[str],
        children: Sequence[str],
        function: Callable[..., Any],
        timestep: int | None = None,
    ) -> None:
        """Add a variable; ``variable`` becomes the last parent of each of ``children``, whose functions must take it.

        Raises:
            CausalModelError: what the constructor refuses, and a variable that is there already; the model stays
                as it was.
        """
        if variable in self.variables:
            raise CausalModelError(f"there is a variable {variable!r} already")
        self._known([*parents, *children])
        new_parents = {v: [*p, variable] if v in children else p for v, p in self.parents.items()}
        # An added variable may push what follows it back, so times are kept only where the caller chose this one's.
        times = None if timestep is None else {**self.timesteps, variable: timestep}
        grown = CausalModel(
            [*self.variables, variable],
            {**self.values, variable: values},
            {**new_parents, variable: parents},
            {**self.functions, variable: function},
            times,
            {v: c for v, c in self.equiv_classes.items() if v not in children},
        )
        vars(self).update(vars(grown))

    # Sampling; `random`'s own generator draws unless a seed is given, so random.seed makes it repeatable.

    def sample_input(
        self, mandatory: Callable[[Setting], bool] | None = None, *, seed: sampling.Seed = None
    ) -> Setting:
        """A value for each input, drawn uniformly, again and again until ``mandatory`` holds of the whole run.

        Raises:
            CausalModelError: ``mandatory`` held of none of 100,000 draws.
        """
        return sampling.uniform_input(self, sampling.generator(seed), mandatory)

    def sample_input_tree_balanced(
        self, output_var: str | None = None, output_var_value: Any = None, *, seed: sampling.Seed = None
    ) -> Setting:
        """An input under which ``output_var`` takes ``output_var_value``, both drawn uniformly where left out.

        It is drawn from the output down: parents' values uniformly among those that give the value, then theirs.
        Rare values (two vectors being equal) so become as frequent as common ones.

        Raises:
            CausalModelError: several outputs and none named, a value that never occurs, or variables whose ways to
                the inputs meet at one, so that their values can't be drawn apart.
        """
        return sampling.balanced_input(self, sampling.generator(seed), output_var, output_var_value)

    def sample_intervention(self, mandatory: Any = None, *, seed: sampling.Seed = None) -> Setting:
        """Values for a random nonempty subset of the intermediate variables.

        Args:
            mandatory: ignored; other software passes it.

        Raises:
            CausalModelError: the model has no intermediate variables.
        """
        return sampling.intervention(self, sampling.generator(seed))

    def generate_equiv_classes(self) -> None:
        """Fill ``equiv_classes``: for each variable with parents, which of their settings give each of its values."""
        for variable in self.variables:
            if self.parents[variable] and variable not in self.equiv_classes:
                self.equiv_classes[variable] = sampling.equivalence_classes(self, variable)

    # Datasets.

    def generate_factual_dataset(
        self,
        size: int,
        sampler: datasets.Sampler | None = None,
        filter: Callable[[Setting], bool] | None = None,
        device: str = "cpu",
        input_function: datasets.Encoder | None = None,
        output_function: datasets.Encoder | None = None,
        return_tensors: bool = True,
        *,
        seed: sampling.Seed = None,
    ) -> list[dict[str, Any]]:
        """Inputs with what the model says of them.

        Args:
            size: how many examples.
            sampler: draws an input; `sample_input` by default. `sample_input_tree_balanced` makes outputs equally
                frequent.
            filter: keep only inputs of which it is true.
            device: of the tensors.
            input_function: turns an input into a tensor; `input_to_tensor` by default.
            output_function: turns a whole run into the label's tensor; `output_to_tensor` by default.
            return_tensors: False gives settings in place of tensors.
            seed: of the default samplers' draws.

        Returns:
            Examples with ``input_ids`` and ``labels``, as a DataLoader takes them.
        """
        encode = datasets.Encoding(self, input_function, output_function, device, return_tensors)
        return datasets.factual(self, size, sampler, filter, encode, sampling.generator(seed))

    def generate_counterfactual_dataset(
        self,
        size: int,
        intervention_id: Callable[[Setting], Any] | None = None,
        batch_size: int = 1,
        sampler: datasets.Sampler | None = None,
        intervention_sampler: Callable[[], Setting] | None = None,
        filter: Callable[[Setting], bool] | None = None,
        device: str = "cpu",
        input_function: datasets.Encoder | None = None,
        output_function: datasets.Encoder | None = None,
        return_tensors: bool = True,
        *,
        seed: sampling.Seed = None,
    ) -> list[dict[str, Any]]:
        """Bases, sources and what the model says of the interchange: the data of interchange intervention training.

        Args:
            size: how many examples, a multiple of ``batch_size``.
            intervention_id: names an intervention (its keys are the variables); by default the number of its
                variables' subset: bit ``i`` is the ``i``-th intermediate variable, so the first alone is 1.
            batch_size: so many examples in a row intervene on the same variables and values, so that a batch of
                that size needs one intervention.
            sampler: draws an input; `sample_input` by default. For sources it is asked for an input under which the
                variable takes the sampled value, ``sampler(output_var=..., output_var_value=...)``, as
                `sample_input_tree_balanced` takes them; one that takes no such arguments is drawn until it does.
            intervention_sampler: draws the variables and values; `sample_intervention` by default.
            filter: keep only interventions of which it is true.
            device, input_function, output_function, return_tensors, seed: as for factual data.

        Returns:
            Examples with ``input_ids`` (the base), ``source_input_ids`` (one row for each intermediate variable: the
            sources of the intervened ones in the order of ``variables``, then zeros), ``labels`` (after the
            interchange), ``base_labels`` (without) and ``intervention_id``.
        """
        encode = datasets.Encoding(self, input_function, output_function, device, return_tensors)
        return datasets.counterfactual(
            self,
            size,
            batch_size,
            intervention_id,
            sampler,
            intervention_sampler,
            filter,
            encode,
            sampling.generator(seed),
        )

    def input_to_tensor(self, setting: Mapping[str, Any]) -> Tensor:
        """The inputs' values, concatenated in the order of ``inputs``; numbers and vectors, float32."""
        return datasets.concatenated(setting, self.inputs)

    def output_to_tensor(self, setting: Mapping[str, Any]) -> Tensor:
        """The outputs' values, concatenated in the order of ``outputs``; numbers and vectors, float32."""
        return datasets.concatenated(setting, self.outputs)

    # Which variables an input's output hangs on.

    def find_live_paths(self, intervention: Mapping[str, Any]) -> dict[int, list[list[str]]]:
        """The causal paths that are alive under ``intervention``, by their number of variables.

        An edge is alive when some other value of the parent changes the child, all else being as it is.
        """
        self._known(intervention)
        return influence.live_paths(self, intervention)

    def get_path_maxlen_filter(self, lengths: Sequence[int]) -> Callable[[Setting], bool]:
        """A filter: the longest living path has one of these numbers of variables."""
        return lambda setting: influence.longest(self, setting) in lengths

    def get_partial_filter(self, partial_setting: Mapping[str, Any]) -> Callable[[Setting], bool]:
        """A filter: the setting has these values."""
        return lambda setting: all(sampling.same(setting[v], value) for v, value in partial_setting.items())

    def get_specific_path_filter(self, start: str, end: str) -> Callable[[Setting], bool]:
        """A filter: some living path leads from ``start`` to ``end``."""
        self._known([start, end])
        return lambda setting: influence.connected(self, setting, start, end)

    # Pictures.

    def plot(
        self, setting: Mapping[str, Any] | None = None, ax: Axes | None = None, *, path: str | Path | None = None
    ) -> Axes:
        """Draw variables and arrows, with the values of ``setting`` where one is given.

        Args:
            ax: matplotlib axes to draw on; new ones by default.
            path: also write the picture there (PNG, PDF, SVG by its ending).

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        from .plot import draw

        return draw(self, setting, ax, path)

    def _known(self, names: Iterator[str] | Sequence[str] | Mapping[str, Any]) -> None:
        for name in names:
            if name not in self.functions:
                raise CausalModelError(
                    f"no variable {name!r}.{did_you_mean(str(name), self.variables)} "
                    f"There are {', '.join(self.variables)}"
                )

    def __repr__(self) -> str:
        between = ", ".join(self.intermediates) or "nothing"
        return f"<CausalModel {', '.join(self.inputs)} -> {between} -> {', '.join(self.outputs)}>"
