from plainformer.adapter import PlainformerAdapter

from intervene.conformance import parametrize_with_laws


@parametrize_with_laws(PlainformerAdapter)
def test_conformance(check):
    check()
