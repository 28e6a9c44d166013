"""Transfer scenes: what must be reported with each, and how the user may be shown the money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from paymaster_sandbox.wechat.errors import refused, wrong


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene. None where the public documents known to us do not settle it."""

    reports: frozenset[str] | None
    perceptions: frozenset[str] | None


_OPEN: Final = Scene(None, None)
SCENES: Final[Mapping[str, Scene]] = {
    "1000": Scene(frozenset({"活动名称", "奖励说明"}), frozenset({"现金奖励", "活动奖励"})),
    "1005": Scene(
        frozenset({"岗位类型", "报酬说明"}),
        frozenset({"劳务报酬", "报销款", "企业补贴", "开工利是"}),
    ),
    **dict.fromkeys(("1002", "1004", "1006", "1009", "1010", "1011", "1013"), _OPEN),
}


def check_scene(scene_id: str, allowed: Sequence[str] | None) -> Scene:
    """The scene, if there is one and the merchant has it. Raises V3Error."""
    scene = SCENES.get(scene_id)
    if scene is None:
        raise wrong("transfer_scene_id", "枚举值错误")
    if allowed is not None and scene_id not in allowed:
        raise refused("尚未获取该转账场景")
    return scene


def check_perception(scene: Scene, perception: str | None) -> None:
    """Raises V3Error if the scene cannot be shown to the user in that way."""
    if perception is None or scene.perceptions is None:
        return
    if perception not in scene.perceptions:
        raise refused("暂不支持展示当前传入的用户收款感知")


def check_reports(scene: Scene, types: Sequence[str]) -> None:
    """Raises V3Error unless exactly what the scene needs has been reported."""
    if scene.reports is None:
        return
    if len(types) != len(scene.reports) or frozenset(types) != scene.reports:
        raise wrong("transfer_scene_report_infos", "未传入完整且对应的转账场景报备信息")
