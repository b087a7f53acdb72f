"""Configurations that would run code, or make objects that no configuration has, if they were opened without care."""

from pathlib import Path


def attacks(marker: Path) -> dict[str, str]:
    """Texts of config.yml by name; opening one without care creates `marker`, or gives an object of another kind."""
    command = f"touch {marker}"
    return {
        "os.system": f"!!python/object/apply:os.system ['{command}']",
        "posix.system": f"!!python/object/apply:posix.system ['{command}']",
        "Popen": f"!!python/object/apply:subprocess.Popen [[touch, {marker}]]",
        "new": f"!!python/object/new:subprocess.Popen [[touch, {marker}]]",
        "eval": f"!!python/object/apply:builtins.eval [\"open('{marker}', 'w')\"]",
        "nested": f"a: [1, {{b: !!python/object/apply:os.system ['{command}']}}]",
        "as a key": f"? !!python/object/apply:os.system ['{command}']\n: 1",
        "in a class of ours": "!!python/object:skyfall_ns.machine_options.SingleDeviceConfig\n"
        f"device_type: !!python/object/apply:os.system ['{command}']",
        "function of Nerfstudio": f"!!python/object/apply:nerfstudio.utils.scripts.run_command ['{command}']",
        "through a module of ours": f"!!python/object/apply:skyfall_ns.nerfstudio_patches.os.system ['{command}']",
        "through pathlib": f"!!python/object/apply:pathlib.os.system ['{command}']",
        "through our class": "!!python/object/apply:skyfall_ns.run_config.importlib.import_module [os]",
        "module": "!!python/module:antigravity",
        "function's name": "!!python/name:os.system",
        "class of another package": "!!python/name:subprocess.Popen",
        "instance of another package": "!!python/object:subprocess.Popen {}",
        "setstate": "!!python/object:skyfall_ns.machine_options.SingleDeviceConfig {__class__: 1}",
        "new with state": "!!python/object/new:skyfall_ns.machine_options.SingleDeviceConfig {state: {a: 1}}",
        "open": f"!!python/object/apply:io.open [{marker}, w]",
        "wheel": "!!python/object/apply:pathlib.Path {args: [a], kwds: {}}",
    }
