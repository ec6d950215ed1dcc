# SPDX-License-Identifier: Apache-2.0
"""Generated scenes: worlds of textured solids, photographed along paths as people photograph, each from a seed."""
