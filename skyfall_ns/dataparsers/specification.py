"""The entry point `skyfall-data`. To avoid a circular import, nothing here may import Nerfstudio's method configs."""

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from skyfall_ns.dataparsers.skyfall_dataparser import SkyfallDataParserConfig

skyfall_data = DataParserSpecification(
    config=SkyfallDataParserConfig(), description="A georeferenced scene directory made by skyfall-process."
)
