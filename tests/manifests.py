"""Plain Kubernetes manifests from the Helm chart, for those who do not use Helm: `make manifests` writes cluster/launch/kuberay.

The chart is the source. Its templates are rendered by Helm's own library.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python

LAUNCH = Path(__file__).parents[1] / "cluster" / "launch"
CHART = LAUNCH / "helm" / "motet"
KUBERAY = LAUNCH / "kuberay"
RELEASE = "motet"

FILES: Mapping[str, tuple[str, ...]] = {
    "service.yaml": ("profile.yaml", "service.yaml", "disruption.yaml"),
    "network.yaml": ("network.yaml",),
    "redis.yaml": ("redis.yaml",),
    "voices.yaml": ("voices.yaml",),
}
"""A manifest and the templates in it."""

HEAD = "# Made from cluster/launch/helm/motet by `make manifests`: change the chart.\n"
HOW = """\
#
# Motet on Kubernetes with KubeRay 1.6 or newer (a secret for token authentication, labels of worker groups), without Helm:
#
#   kubectl create namespace motet
#   kubectl -n motet create secret generic motet-ray-token --from-literal=auth_token="$(openssl rand -hex 32)"
#   kubectl -n motet create secret generic motet-redis --from-literal=password="$(openssl rand -hex 32)"
#   kubectl -n motet apply -f redis.yaml -f network.yaml -f voices.yaml -f service.yaml
#
# The images are built from ../docker; put your registry in place of registry.example.com. See docs/launch.md.
"""


def rendered(values: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The chart's manifests with these values beside the defaults, by template."""
    chart = helm_python.Chart.load(CHART)
    made = chart.render(dict(values or {}), name=RELEASE, namespace=RELEASE)
    return {Path(name).name: text.strip() for name, text in made.items() if text.strip()}


@cache
def manifests() -> Mapping[str, str]:
    """The plain manifests by file name."""
    found = rendered()
    return {
        name: HEAD + (HOW if name == "service.yaml" else "") + "\n---\n".join(found[each] for each in templates) + "\n"
        for name, templates in FILES.items()
    }


def main() -> None:
    """Writes them."""
    for name, text in manifests().items():
        (KUBERAY / name).write_text(text)


if __name__ == "__main__":
    main()
