"""SteadyDiffSaveSchedule and SteadyDiffLoadSchedule: schedules in files, and what Auto Correct found."""

from comfy_api.latest import io

from ..steadydiff.drift.saved_fit import schedule_in
from ..steadydiff.errors import SettingsError
from ..steadydiff.files.atomic import write_whole
from ..steadydiff.files.checkpoints import check_file_name
from ..steadydiff.files.text import read_text
from ..steadydiff.schedules import Schedule
from .shared import schema
from .shared.schedule_folder import file_of, folder, options

NONE = "none kept yet"


class SteadyDiffSaveSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffSaveSchedule",
            display_name="Save Schedule (SteadyDiff)",
            category=schema.CATEGORY,
            description="Keeps a schedule in models/steadydiff_schedules, for Load Schedule.",
            search_aliases=["epsilon scaling schedule", "keep schedule", "lambda"],
            is_output_node=True,
            inputs=[
                schema.Schedule.Input("schedule", tooltip="From Make Schedule, Calibrate or Load Schedule."),
                io.String.Input("name", default="my schedule", tooltip="Of the file, without folders."),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Whether a file of this name may be replaced."
                ),
            ],
            outputs=[schema.Schedule.Output(display_name="schedule", tooltip="The same schedule.")],
        )

    @classmethod
    def execute(cls, schedule, name, overwrite) -> io.NodeOutput:
        file, text = file_of(name), Schedule.from_json(schedule).to_json()
        if file.parent != folder():
            check_file_name(name, name)  # refuses it, for its folder
        if file.exists() and not overwrite and file.read_bytes() != text.encode():
            raise SettingsError(
                f"there is a schedule called {file.stem!r} already; choose another name, or turn overwrite on"
            )
        write_whole(file, text)
        return io.NodeOutput(schedule)


class SteadyDiffLoadSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema.schema(
            node_id="SteadyDiffLoadSchedule",
            display_name="Load Schedule (SteadyDiff)",
            category=schema.CATEGORY,
            description="Loads a schedule that Save Schedule kept, or the lambda that Auto Correct found.",
            search_aliases=["epsilon scaling schedule", "lambda"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=options() or [NONE],
                    tooltip="A file in models/steadydiff_schedules; auto/ is what Auto Correct found. New "
                    "ones appear after pressing R.",
                ),
            ],
            outputs=[
                schema.Schedule.Output(display_name="schedule", tooltip="For Epsilon Scaling with Schedule."),
                io.String.Output(
                    display_name="json", tooltip="The schedule as text, with what it was made for."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name):
        file = file_of(name)
        return file.stat().st_mtime_ns if file.exists() else ""

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        try:
            text = read_text(file_of(name))
        except FileNotFoundError:
            raise SettingsError(
                f"there is no schedule called {name!r}; keep one with Save Schedule, or press R"
            ) from None
        except (OSError, SettingsError) as error:
            raise SettingsError(f"the schedule {name!r} cannot be read ({error}); choose another") from error
        try:
            found = schedule_in(text).to_json()
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}") from error
        return io.NodeOutput(found, found)
