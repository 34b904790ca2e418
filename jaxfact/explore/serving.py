"""The page as a server of this machine."""

import errno
import gc
import ipaddress
import logging
import re
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import panel as pn
from tornado.web import ErrorHandler

from jaxfact.explore.controls import State, address_of, read_address
from jaxfact.explore.laboratory import Laboratory, programs_of
from jaxfact.explore.page import Page
from jaxfact.inputs import problem_with

_TURN = 5e-4  # seconds after which a thread lets others run Python: by the usual 5 ms they wait for each other


def serve(laboratory: Laboratory, state: State, port: int, address: str, browser: bool) -> None:
    """Serve pages until interrupted; programs are made meanwhile, those that the first page needs first."""
    port = _free_port(port, address)
    for name in ("bokeh", "tornado.access"):  # which warn of every page that is closed, and of paths that are not there
        logging.getLogger(name).setLevel(logging.ERROR)
    here = [f"{address}:{port}", *([f"localhost:{port}"] if _is_loopback(address) else [])]
    ending = threading.Event()
    started = address_of(state, laboratory.controls)
    url = f"http://{address}:{port}/{f'?{started}' if started else ''}"
    print(f"{url} (ctrl-C ends it)", flush=True)
    if browser:
        threading.Timer(0.5, webbrowser.open, [url]).start()
    # Panel's own reading of the address fails on some, with all of it in the terminal.
    options = {"show": False, "verbose": False, "title": "jaxfact explore", "location": False}
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    with ThreadPoolExecutor(1) as background:
        background.submit(_make, laboratory, state, ending)
        try:
            server = pn.io.server.get_server({"/": page_of(laboratory)}, port, address, here, start=False, **options)
            _refuse_other_names(server, is_local=_is_loopback(address))
            server.start()
            server.io_loop.start()  # ctrl-C stops it
        finally:
            ending.set()
            sys.setswitchinterval(usual)


def page_of(laboratory: Laboratory) -> Callable[[], pn.viewable.Viewable]:
    """Return what makes the page of a visitor; the address that they opened says where its controls stand."""

    def page() -> pn.viewable.Viewable:
        asked = [(name, value) for name, values in pn.state.session_args.items() for value in values]
        said = ""
        try:
            state = read_address(urlencode(asked), laboratory.controls)
        except ValueError as error:
            state, said = read_address("", laboratory.controls), " ".join(str(error).split())
        return Page(laboratory, state, said).view()

    return page


def _make(laboratory: Laboratory, state: State, ending: threading.Event) -> None:
    """Make all programs that a page may need, until the server ends."""
    for program in programs_of(state):
        if not ending.is_set():
            laboratory.made(program)
    # Beside millions of objects of traced programs Python would hardly ever look for the garbage that moves leave.
    gc.collect()
    gc.freeze()


def _refuse_other_names(server: Any, *, is_local: bool) -> None:
    """Answer nothing that was asked for by another name of this machine than its addresses and its own names.

    Tornado lets in whose origin is the host that they ask for: a page from elsewhere, if its name is made to mean this
    machine. An address cannot be made to mean another.
    """
    own = ["localhost"] if is_local else ["localhost", socket.gethostname().lower(), socket.getfqdn().lower()]
    known = "|".join(["[0-9.]+", *map(re.escape, own)])
    server._tornado.add_handlers(f"(?!(?:{known})$).*", [(".*", ErrorHandler, {"status_code": 403})])


def _free_port(port: int, address: str) -> int:
    """Return the port, or a free one for 0. Raises ValueError where it cannot be had."""
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        raise problem_with("address", address, "is no address in numbers", "leave it out, for 127.0.0.1") from None
    if version == 6:  # Panel divides hosts at their first colon
        raise problem_with("address", address, "is of IPv6, for which the page is not made", "give one of IPv4")
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address, port))
            return tried.getsockname()[1]
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            raise problem_with("address", address, "is none of this machine", "leave it out, for 127.0.0.1") from None
        raise problem_with("port", f"{address}:{port}", f"cannot be had ({said})", "choose another") from None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
