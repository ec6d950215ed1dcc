# SPDX-License-Identifier: Apache-2.0
"""Dataparsers that nerfstudio finds by entry point (group nerfstudio.dataparser_configs)."""

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from ..dataparser import Diff3RDataParserConfig

diff3r_data = DataParserSpecification(
    config=Diff3RDataParserConfig(),
    description="One scene or a folder of scenes: transforms.json (nerfstudio, instant-ngp) or COLMAP.",
)
