"""The driver itself: it leaves nothing behind, and says what went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.cdp import Browser, BrowserError, eventually

pytestmark = pytest.mark.browser


def processes_of(profile: Path) -> list[int]:
    """Process ids that name this profile in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(profile).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # gone meanwhile
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
async def test_closing_leaves_no_process_and_no_file() -> None:
    async with await Browser.launch() as browser:
        assert browser.process is not None
        profile = browser.process.profile
        await browser.new_page()
        assert processes_of(profile)
    await eventually(lambda: processes_of(profile) == [])
    assert not profile.exists()


async def test_what_a_script_throws_is_told(browser: Browser) -> None:
    page = await browser.new_page()
    with pytest.raises(BrowserError, match="TypeError"):
        await page.evaluate("null.x")
    with pytest.raises(BrowserError, match="#nothing is not there"):
        await page.click("#nothing")
    with pytest.raises(TimeoutError, match="1 > 2"):
        await page.wait_for("1 > 2", timeout=0.05)


async def test_the_console_is_collected(browser: Browser) -> None:
    page = await browser.new_page()
    await page.evaluate("console.error('bad', 7); console.log('fine'); undefined")
    await page.evaluate("setTimeout(() => { throw new Error('later') }); undefined")
    await eventually(lambda: len(page.errors) == 2)
    assert page.errors[0] == "bad 7"
    assert "later" in page.errors[1]


async def test_a_killed_browser_fails_commands_at_once() -> None:
    browser = await Browser.launch()
    page = await browser.new_page()
    assert browser.process is not None
    browser.process.kill()
    with pytest.raises((BrowserError, ConnectionError)):
        await page.evaluate("new Promise(() => {})")
    await browser.close()
