# SPDX-License-Identifier: Apache-2.0
"""What nerfstudio finds by entry points: methods, dataparsers, optimisers with their schedules."""
