"""How Flower's page of tasks is laid out, so that what a task tells can be read without scrolling sideways.

Flower (2.2) puts each cell on one line, cut at the column's edge: of the arguments of our tasks that is the
half of a stage's id. Each of its pages contains the module `Template`, a module of Tornado's, and a module
may bring a style along: https://www.tornadoweb.org/en/stable/web.html#tornado.web.UIModule.embedded_css
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
    """A part of a page, as Tornado has it, with the style."""

    def embedded_css(self) -> str:
        """Give what goes into the page's head, once a page."""
        return f"{super().embedded_css()}{_STYLE}"


UI_MODULES: dict[str, type[UIModule]] = {"Template": _StyledTemplate}
"""The application's setting `ui_modules`."""
