from modules.shared import folder

models_path = data_path = script_path = folder.name
