"""The device profiles by which models run on this machine."""

from __future__ import annotations

from edgelm.bundle.manifest import Manifest
from edgelm.device.finding import Finding
from edgelm.errors import ProfileError
from edgelm.machine.host import CpuInfo
from edgelm.profile.profile import Profile, machine_key
from edgelm.profile.store import Profiles, folders

_AGAIN = "tune again: edgelm tune BUNDLE"


def machine_findings(cpu: CpuInfo) -> list[Finding]:
    """The profiles of this machine, a finding for each and for each damaged file; nothing where there are none."""
    findings, seen = [], set()
    for folder in folders():
        for path, found in Profiles(folder).all():
            if isinstance(found, ProfileError):
                findings.append(Finding("warn", "profile", str(found), f"rm {path}"))
            elif found.machine == machine_key(cpu) and found.shape not in seen:
                seen.add(found.shape)
                findings.append(Finding("ok", "profile", f"{found.model} {found.quant}: {_told(found)}"))
    return findings


def bundle_findings(manifest: Manifest, cpu: CpuInfo, onnxruntime: str | None) -> list[Finding]:
    """The profile by which a bundle runs here; what is wrong with it, or that it was measured with another onnxruntime."""
    for folder in folders():
        try:
            found = Profiles(folder).find(manifest, cpu)
        except ProfileError as error:
            return [Finding("warn", "profile", f"passed over: {error}", _AGAIN)]
        if found is None:
            continue
        if onnxruntime is not None and found.onnxruntime != onnxruntime:
            detail = f"{_told(found)}; measured with onnxruntime {found.onnxruntime}, not {onnxruntime}"
            return [Finding("warn", "profile", detail, _AGAIN)]
        return [Finding("ok", "profile", _told(found))]
    return [Finding("ok", "profile", "none: threads are the target's; to measure them: edgelm tune BUNDLE")]


def _told(profile: Profile) -> str:
    return f"{profile.id}: {profile.settings}"
