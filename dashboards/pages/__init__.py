"""Pages from templates: a site of many, or everything on one. They need no server and no network."""

from dashboards.pages.gallery import pictures_of
from dashboards.pages.sheets import everything
from dashboards.pages.website import write, write_whole
