"""A folder of the host's for one kind of our files, and those for the tiny world that come with the pack."""

import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...steadydiff.files.atomic import check_writable
from ...steadydiff.files.checkpoints import check_file_name
from ...steadydiff.tinyworld import files as tinyworld


@dataclass(frozen=True)
class ModelFolder:
    """name: of the folder under the host's models; shipped_as: begins the names of files in ours."""

    name: str
    shipped_as: str

    def register(self) -> None:
        """Tell the host of the folder; paths that a user added for it stay."""
        folder_paths.add_model_folder_path(self.name, os.path.join(folder_paths.models_dir, self.name))
        folder_paths.folder_names_and_paths[self.name][1].add(".safetensors")

    def shipped(self) -> dict[str, Path]:
        """The files for the tiny world."""
        found = sorted(tinyworld.FOLDER.glob(f"{self.shipped_as}*.safetensors"))
        return {f"tinyworld/{path.name}": path for path in found}

    def options(self) -> list[str]:
        return [*self.shipped(), *folder_paths.get_filename_list(self.name)]

    def path_of(self, option: str) -> Path:
        return self.shipped().get(option) or Path(folder_paths.get_full_path_or_raise(self.name, option))

    def paths(self, name: str) -> tuple[Path, Path]:
        """Where a training writes its file and its state; a name is one word of a file name, not a path.

        Raises:  SettingsError for another name, SteadyDiffError where the file could not be written.
        """
        plain = name.strip().removesuffix(".safetensors")
        check_file_name(name, plain)
        folder, output = folder_paths.get_folder_paths(self.name)[0], folder_paths.get_output_directory()
        file = Path(folder) / f"{plain}.safetensors"
        check_writable(file)  # before there is anything to lose
        return file, Path(output) / self.name / f"{plain}.safetensors"
