# SPDX-License-Identifier: Apache-2.0
"""What is raised for data that cannot be used."""


class SceneError(ValueError):
    """A scene that cannot be used as it is; the message names the file and, where there is one, the field."""


class ImageError(SceneError):
    """An image file that cannot be used; the message names it."""


class SceneWarning(UserWarning):
    """Something of a scene is left out or decided for the user; the message names the file."""
