"""MkDocs hooks: pages of the site whose source lies outside docs/, and links to them.

In the repository, links are relative paths between files (`../../benchmarks/stage1.md`). In the site, benchmarks/ is a
directory of the manual, so one `../` is removed.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\]\(\.\./((?:\.\./)*)(benchmarks/[^)\s]*|CHANGELOG\.md)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add benchmarks/*.md and the changelog to the pages of the site."""
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        files.append(File.generated(config, f"benchmarks/{path.name}", content=path.read_text()))
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between docs/ and the files outside it."""
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown.replace("](../docs/", "](../")
    return OUTSIDE.sub(lambda m: f"]({m[1]}{m[2].replace('CHANGELOG', 'changelog')}", markdown)
