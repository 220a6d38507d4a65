"""Links of README.md as an index shows them: absolute, since the index has none of our files.

The address is `[project.urls] Repository`, which `python -m tools.stamp ADDRESS` sets at release;
until then links stay as they are.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

SOURCE = re.compile(r' srcset="(?!https?://)([^"\s]+)"')  # of a dark page's picture
RELATIVE = re.compile(r"(!?)(\[[^\]]*\])\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute_links(text: str, address: str) -> str:
    """Markdown whose links to files of the repository lead to the repository's main branch, those
    of images to the files themselves.
    """
    if not address:
        return text
    base = address.removesuffix(".git").rstrip("/")

    def absolute(link: re.Match) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}{link[2]}({base}/{kind}/main/{link[3]})"

    sourced = SOURCE.sub(lambda link: f' srcset="{base}/raw/main/{link[1]}"', text)
    return RELATIVE.sub(absolute, sourced)


class CustomMetadataHook(MetadataHookInterface):
    def update(self, metadata: dict) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = metadata.get("urls", {}).get("Repository", "")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute_links(text, address),
        }
