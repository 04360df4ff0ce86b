"""Style of Flower's page of tasks, so that arguments and results are readable without scrolling sideways.

Flower (2.2) shows each cell on one line, cut at the column's edge: of our tasks' arguments that is half of a
stage id. Each of its pages contains `Template`, a module of Tornado's, and a module may add a style:
https://www.tornadoweb.org/en/stable/web.html#tornado.web.UIModule.embedded_css
"""

from __future__ import annotations

from tornado.web import TemplateModule, UIModule

__all__ = ["UI_MODULES"]

_STYLE = """
.tasks-table { font-size: 0.75rem; }
.tasks-table.table > :not(caption) > * > * { padding: 0.5rem; }
.tasks-table td { overflow-wrap: anywhere; }
.tasks-table td.text-nowrap, .tasks-table .worker-name-link, .tasks-table .task-uuid-full {
  white-space: normal !important;
}
.tasks-table .worker-name-link { display: inline; }
.tasks-table th[data-column="name"] { min-width: 9.5rem; }
.tasks-table th[data-column="kwargs"] { min-width: 21rem; }
.tasks-table th[data-column="result"] { min-width: 5.5rem; }
.tasks-table th[data-column="exception"] { min-width: 11.5rem; }
.tasks-table th[data-column="received"] { min-width: 4.5rem; }
.tasks-table th[data-column="worker"] { min-width: 7rem; }
.tasks-table th[data-column="uuid"] { min-width: 8.25rem; }
"""


class _StyledTemplate(TemplateModule):
    """Tornado's `Template` module with our style."""

    def embedded_css(self) -> str:
        """Return the style for the page's head; included once per page."""
        return f"{super().embedded_css()}{_STYLE}"


UI_MODULES: dict[str, type[UIModule]] = {"Template": _StyledTemplate}
"""Value for the application's setting `ui_modules`."""
