"""What a person sees in MLflow after three runs: Chromium on the pages that `make ui` serves.

Neither the pages nor their server may ask for anything beyond this machine.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import NO_HUB, environment
from pyarrow import parquet

pytest.importorskip("selenium", reason="selenium is not installed (pip install '.[dev]')")
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds: the machine may be busy
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()), reason="no Chromium (apt-get install chromium chromium-driver)"
    ),
]

TRAINED, RANDOM = "mini on pydoc", "mini with random weights on pydoc"
COMMON = ("model=mini", "dataset=pydoc", "device=cpu")
PROFILE = (*COMMON, "experiment=token_length", "dataset.tokens=1200", "dataset.sequence_length=256")
GRAMMAR = (
    *COMMON,
    "experiment=grammar_tuning",
    "dataset.tokens=2048",
    "experiment.permutations=100",
    "experiment.splits=4",
    "experiment.shuffles=2",
)


@dataclass(frozen=True)
class Pages:
    """MLflow's, over the runs in `outputs`; `world` is where its server would call to reach any other machine."""

    address: str
    outputs: Path
    world: socket.socket

    def folder(self, experiment: str) -> Path:
        """Of its first run: their names are dates."""
        return min((self.outputs / experiment).iterdir())

    def ids(self, experiment: str) -> tuple[str, str]:
        """Of the experiment and of one run of it, as MLflow's addresses want them."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.outputs / 'mlflow.db'}")
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        runs = client.search_runs([found.experiment_id], f"attributes.run_name LIKE '{TRAINED}%'")  # options may follow
        return found.experiment_id, runs[0].info.run_id


@pytest.fixture(scope="module")
def pages(commands, tmp_path_factory) -> Iterator[Pages]:
    where = tmp_path_factory.mktemp("browser")
    for arguments in (PROFILE, (*PROFILE, "model.weights=random"), GRAMMAR):
        process = commands.run(arguments, where, draws=True)
        assert process.returncode == 0, process.stderr
    with socket.create_server(("127.0.0.1", 0)) as world, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        proxy = f"http://127.0.0.1:{world.getsockname()[1]}"
        changes = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "127.0.0.1"}
        changes |= {name.upper(): value for name, value in changes.items()}
        # Without what keeps MLflow from reporting home in tests: `make ui` has to do that itself
        told = environment(where / "hf", **changes)
        told = {
            name: value for name, value in told.items() if name not in ("CI", "DO_NOT_TRACK", "PYTEST_CURRENT_TEST")
        }
        command = ["make", "-o", ".venv/run.stamp", "ui", f"PORT={port}", f"OUTPUTS={where / 'outputs'}"]
        with (where / "ui.log").open("w") as log:
            server = subprocess.Popen(
                [*command, f"BIN={Path(sys.executable).parent}"],
                cwd=ROOT,
                env=told,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # make, the shell, mlflow and its server end as one
            )
        try:
            found = Pages(f"http://127.0.0.1:{port}", where / "outputs", world)
            until_it_answers(f"{found.address}/health", server, where / "ui.log")
            yield found
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(PATIENCE)


def until_it_answers(address: str, server: subprocess.Popen, log: Path) -> None:
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    wait: WebDriverWait = WebDriverWait(None, PATIENCE, ignored_exceptions=[urllib.error.URLError])

    def answers(_: None) -> bool:
        assert server.poll() is None, log.read_text()
        with straight.open(address, timeout=PATIENCE) as reply:
            return reply.status == 200

    try:
        wait.until(answers)
    except TimeoutException:
        pytest.fail(f"`make ui` does not answer within {PATIENCE} s: {log.read_text()}")


@pytest.fixture(scope="module")
def chromium(pages, tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for switch in (
        "headless=new",
        "no-sandbox",  # or it will not run as root
        "disable-dev-shm-usage",  # containers have little of it
        "window-size=1600,1000",
        f"proxy-server={NO_HUB}",  # but for loopback; it would call Google
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    home = {"HOME": str(tmp_path_factory.mktemp("home")), "PATH": os.environ["PATH"]}
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER), env=home))
    yield driver
    driver.quit()


@dataclass(frozen=True)
class Screen:
    """One test's view of the browser."""

    driver: webdriver.Chrome
    pages: Pages
    picture: Path

    def open(self, place: str) -> None:
        """Loads it afresh, as one who has never been there."""
        self.driver.get("about:blank")
        everything = {"origin": self.pages.address, "storageTypes": "all"}
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", everything)
        self.driver.get(f"{self.pages.address}/#/{place}")

    def open_run(self, experiment: str, place: str) -> None:
        number, run = self.pages.ids(experiment)
        self.open(f"experiments/{number}/runs/{run}/{place}")

    def until(self, what: str, condition: Callable[[webdriver.Chrome], Any]) -> Any:
        """The condition's value as soon as it is true; a screenshot if it never is."""
        passing = (NoSuchElementException, StaleElementReferenceException)
        try:
            return WebDriverWait(self.driver, PATIENCE, ignored_exceptions=passing).until(condition)
        except TimeoutException:
            self.driver.save_screenshot(str(self.picture))
        pytest.fail(f"not seen in {PATIENCE} s: {what}; there was {self.picture}")

    def see(self, path: str) -> Any:
        """The first visible element of this XPath."""
        return self.until(path, lambda d: next((e for e in d.find_elements(By.XPATH, path) if e.is_displayed()), None))

    def see_text(self, text: str) -> Any:
        return self.see(f"//*[normalize-space(text())='{text}']")

    def click(self, path: str) -> None:
        """Clicks it, once more if the page was redrawn meanwhile or something lay over it."""

        def clicked(_: webdriver.Chrome) -> bool:
            try:
                self.see(path).click()
            except webdriver.remote.errorhandler.ElementClickInterceptedException:
                return False
            return True

        self.until(f"{path} to click", clicked)


@pytest.fixture
def screen(chromium, pages, tmp_path) -> Iterator[Screen]:
    """Afterwards no page may have asked another machine for anything."""
    chromium.get_log("performance")  # what another test asked for
    yield Screen(chromium, pages, tmp_path / "screen.png")
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked
    assert not [url for url in asked if not url.startswith((pages.address, f"blob:{pages.address}", "data:"))]


def go_to_runs(screen: Screen) -> None:
    """The address of the runs of `token_length` that `make ui` prints."""
    printed = (screen.pages.outputs.parent / "ui.log").read_text()
    address = re.search(rf"token_length: {screen.pages.address}/#/(experiments/\d+/runs)", printed)
    assert address is not None, printed
    screen.open(address[1])
    for name in (TRAINED, RANDOM):
        screen.see(f"//a[normalize-space()='{name}']")


def test_an_experiment_lists_its_runs_by_name(screen):
    go_to_runs(screen)
    number, run = screen.pages.ids("token_length")
    link = screen.see(f"//a[normalize-space()='{TRAINED}']")
    assert link.get_attribute("href").endswith(f"#/experiments/{number}/runs/{run}")
    screen.click(f"//a[normalize-space()='{TRAINED}']")
    screen.see(f"//h1[normalize-space()='{TRAINED}'] | //h2[normalize-space()='{TRAINED}']")
    screen.see_text("Finished")
    screen.see_text("r_median")


def test_two_runs_compare(screen):
    go_to_runs(screen)
    for row in range(2):
        screen.click(f"//*[@row-index='{row}']//*[contains(@class, 'ag-checkbox-input-wrapper')]")
    screen.click("//button[normalize-space()='Compare']")
    screen.see("//*[contains(normalize-space(text()), 'Comparing 2 Runs')]")
    for text in (TRAINED, RANDOM, "model.weights", "pretrained", "random", "first_layer_above_others"):
        screen.see_text(text)
    for folder in (screen.pages.outputs / "token_length").iterdir():
        metrics = json.loads((folder / "summary.json").read_text("utf-8"))["metrics"]
        screen.see_text(str(round(metrics["first_layer_above_others"], 3)))


def test_a_metric_of_the_layers_plots_over_them(screen):
    screen.open_run("token_length", "model-metrics")
    screen.see("//input[contains(@placeholder, 'metric charts')]").send_keys("^r_median$")
    layers = parquet.read_table(screen.pages.folder("token_length") / "layers.parquet").to_pydict()
    points = ".js-plotly-plot .scatterlayer .point"
    screen.until(
        f"{len(layers['layer'])} points",
        lambda d: (
            len([p for p in d.find_elements(By.CSS_SELECTOR, points) if p.is_displayed()]) == len(layers["layer"])
        ),
    )
    plotted = "const [line] = document.querySelector('.js-plotly-plot').data; return [[...line.x], [...line.y]]"
    assert screen.driver.execute_script(plotted) == [layers["layer"], layers["r_median"]]


def test_a_figure_displays(screen):
    screen.open_run("token_length", "artifacts/figures/r_by_layer.png")
    picture = screen.see("//img[@alt='figures/r_by_layer.png']")
    screen.until("the picture", lambda _: picture.get_property("complete") and picture.get_property("naturalWidth") > 0)
    assert picture.size["width"] > 300


def test_the_text_heat_map_displays(screen):
    screen.open_run("grammar_tuning", "artifacts/figures/text_heat_map.html")
    page = (screen.pages.folder("grammar_tuning") / "figures" / "text_heat_map.html").read_text("utf-8")
    screen.driver.switch_to.frame(screen.see("//iframe"))
    tokens = screen.until("tokens", lambda d: d.find_elements(By.CSS_SELECTOR, "span[title]"))
    assert len(tokens) == page.count("<span title=")
    first = next(token for token in tokens if token.text.strip())
    assert first.is_displayed()
    assert first.size["width"] > 0
    assert first.value_of_css_property("background-color") != "rgba(0, 0, 0, 0)"
    screen.see("//h2[contains(., 'prefers nouns')]")
    screen.driver.switch_to.default_content()


def test_only_this_machine_is_listened_to_and_spoken_to(screen):
    screen.open("")
    screen.see("//a[normalize-space()='token_length']")
    port = int(screen.pages.address.rsplit(":")[-1])
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]
    if select.select([screen.pages.world], [], [], 0)[0]:
        with screen.pages.world.accept()[0] as call:
            pytest.fail(f"MLflow's server called out: {call.recv(200)}")
