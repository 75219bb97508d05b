"""Package definition: everything is read from settings.ini, so that nbdev and pip agree.

The stage notebooks and the facts in data/ go into the wheel as stepdr/_share/, where `stepdr.artifacts.root`
finds them when there is no checkout around the package.
"""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
SHARED = ("settings.ini", "nbs/**/*.ipynb", "data/**/*")


class BuildWithShare(build_py):
    "Copy the notebooks and the facts beside the modules of a wheel; an editable install reads them in place."

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False): return
        share = Path(self.build_lib) / "stepdr" / "_share"
        shutil.rmtree(share, ignore_errors=True)
        for pattern in SHARED:
            for source in sorted(here.glob(pattern)):
                if not source.is_file() or ".ipynb_checkpoints" in source.parts: continue
                target = share / source.relative_to(here)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def requirements(name): return settings.get(name, "").split()


extras = {name: requirements(f"{name}_requirements") for name in ("train", "data", "ray", "tools", "asr", "notebooks", "dev")}
extras["all"] = extras["train"] + extras["data"] + extras["tools"] + extras["asr"] + extras["notebooks"]
readme = here / "README.md"

setup(
    name=settings["lib_name"],
    version=settings["version"],
    license="Apache-2.0",
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    keywords=settings["keywords"],
    url=settings["git_url"],
    packages=find_packages(include=["stepdr*"]),
    python_requires=f">={settings['min_python']}",
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": requirements("console_scripts")},
    cmdclass={"build_py": BuildWithShare},
    zip_safe=False,
)
