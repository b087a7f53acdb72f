"""The entry point `skyfall-data`; imports nothing that imports the host's method configs, which would go in circles."""

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from skyfall_ns.dataparsers.skyfall_dataparser import SkyfallDataParserConfig

skyfall_data = DataParserSpecification(
    config=SkyfallDataParserConfig(), description="A georeferenced scene folder made by skyfall-process."
)
