"""What a program sends and holds is read from XLA's text of it."""

import pytest

from recalign.engine.training.hlo import Collective, explain, find_collectives, find_temporaries

# Two layers in a loop, forward; a gradient that is split as it is summed; and what comes of both.
HLO = """\
HloModule jit__step, is_scheduled=true, replica_count=1, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%fused (p: f32[64,32]) -> f32[64,32] {
  %p = f32[64,32]{1,0} parameter(0)
  %inside = f32[64,4096]{1,0} broadcast(%p), dimensions={0}
  ROOT %slice.1 = f32[64,32]{1,0} slice(%inside), slice={[0:64], [0:32]}
}

%body (x: (s32[], bf16[16,64])) -> (s32[], bf16[16,64]) {
  %x = (s32[], bf16[16,64]{1,0}) parameter(0)
  %gather-start.1 = (bf16[64,4]{1,0}, bf16[64,32]{1,0:T(8,128)(2,1)}) all-gather-start(%x), \
channel_id=1, replica_groups=[1,8]<=[8], dimensions={1}, metadata={op_name="jit(_step)/layers_0/wi"}
  %gather-done.1 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather-done(%gather-start.1), \
metadata={op_name="jit(_step)/layers_0/wi" stack_frame_id=7}
  ROOT %out = (s32[], bf16[16,64]{1,0}) tuple(%x, %gather-done.1)
}

%test (y: (s32[], bf16[16,64])) -> pred[] {
  %y = (s32[], bf16[16,64]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%y, %y), direction=LT
}

ENTRY %main (w: f32[64,32]) -> (f32[8,32], (f32[64,32], f32[])) {
  %w = f32[64,32]{1,0} parameter(0), metadata={op_name="state.params"}
  %loop = (s32[], bf16[16,64]{1,0}) while(%w), condition=%test, body=%body, \
backend_config={"known_trip_count":{"n":"2"},"known_init_step":{"init":"0","step":"1"}}
  %gather.9 = bf16[64,32]{1,0} all-gather(%w), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={1}, \
metadata={op_name="jit(_step)/layers_1/wi"}
  %fusion.1 = (f32[64,32]{1,0}, f32[512]{0}) fusion(%w), kind=kLoop, calls=%fused, \
metadata={op_name="jit(_step)/update"}
  %new = f32[64,32]{1,0} get-tuple-element(%fusion.1), index=0
  %reduced = (f32[], /*index=1*/f32[64]{0}) all-reduce(%w, %w), \
replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, to_apply=%sum
  %permuted = u8[7]{0} collective-permute(%w), source_target_pairs={{0,1},{1,0}}
  %every = pred[4]{0} all-to-all(%w), replica_groups={}
  %gradient = f32[8,32]{1,0} reduce-scatter(%new), replica_groups=mesh['a'=8] {'a':(2)4}, \
to_apply=%sum, metadata={op_name="jit(_step)/transpose(jvp())/dot"}
  ROOT %result = (f32[8,32]{1,0}, f32[64,32]{1,0}) tuple(%gradient, %new)
}
"""


def test_every_collective_is_found_with_its_bytes_and_how_often_it_runs():
    found = find_collectives(HLO)
    assert found == {
        Collective("all-gather", 8, ("bf16[64,32]",), "layers_*/wi"): 2 + 1,
        Collective("all-reduce", 2, ("f32[]", "f32[64]"), "all-reduce"): 1,
        Collective("collective-permute", 2, ("u8[7]",), "collective-permute"): 1,
        Collective("all-to-all", 8, ("pred[4]",), "all-to-all"): 1,
        Collective("reduce-scatter", 4, ("f32[8,32]",), "transpose(jvp())/dot"): 1,
    }
    sizes = {one.kind: one.bytes for one in found}
    assert sizes["all-gather"] == 64 * 32 * 2
    assert sizes["all-reduce"] == (1 + 64) * 4
    assert sizes["reduce-scatter"] == 4 * 8 * 32 * 4  # what goes in
    assert (sizes["collective-permute"], sizes["all-to-all"]) == (7, 4)


def test_temporaries_are_neither_given_nor_given_back_nor_inside_a_fusion():
    found = {(array, where): number for (_, array, where), number in find_temporaries(HLO).items()}
    assert found[("bf16[64,32]", "layers_*/wi")] == 2  # in the loop's body, and beside it
    assert found[("f32[512]", "update")] == 1
    arrays = {array for array, _ in found}
    assert not arrays & {"f32[64,32]", "f32[8,32]", "f32[64,4096]", "bf16[16,64]"}
    assert max(find_temporaries(HLO)).array == "bf16[64,32]"


def test_the_dearest_come_first():
    lines = explain(HLO, "a step").splitlines()
    whole = 3 * 64 * 32 * 2 + 65 * 4 + 7 + 4 + 4 * 8 * 32 * 4
    assert lines[0] == f"collectives of a step: {whole / 2**20:.3f} MiB a device"
    assert lines[1].strip() == "0.012 MiB  3 x all-gather over 8  bf16[64,32]  layers_*/wi"
    assert "1 x reduce-scatter over 4" in lines[2]
    assert "f32[64] and 1 more" in lines[3]
    assert lines[6].startswith("largest temporaries of a step")
    assert lines[7].strip() == "0.004 MiB  2 x bf16[64,32]  layers_*/wi"


@pytest.mark.parametrize("count", [1, 30])
def test_a_program_without_collectives_has_none(count):
    hlo = "HloModule m\n\nENTRY %main (p: f32[2]) -> f32[2] {\n  %p = f32[2]{0} parameter(0)\n"
    hlo += "".join(f"  %a.{number} = f32[{number + 3}]{{0}} iota()\n" for number in range(count))
    hlo += "  ROOT %r = f32[2]{0} add(%p, %p)\n}\n"
    lines = explain(hlo, "it").splitlines()
    assert lines[0] == "collectives of it: 0.000 MiB a device"
    assert len(lines) == 2 + min(count, 10)
