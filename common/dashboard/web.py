"""A dashboard as an application: addresses, pages, forms, files and the stream of what happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from partsong.common.control.loopback import LOOPBACK
from partsong.common.dashboard import guard
from partsong.common.dashboard.frame import FILES, STATIC, Frame
from partsong.common.dashboard.keys import Sessions, form_word
from partsong.common.dashboard.live import MEDIA_TYPE, Live
from partsong.common.dashboard.pages import Answer, Asked, Dashboard, Moved, Sent, Shown, View, trouble_of
from partsong.common.errors import PartsongError
from partsong.common.logs import EventLog

EVENTS, LOGOUT = "events", "logout"
Endpoint = Callable[[Request], Awaitable[Response]]


def app_of(board: Dashboard, *, sessions: Sessions, place: str, live: Live) -> Starlette:
    """Make the application, behind its door.

    Args:
        board: what is shown.
        sessions: who may look.
        place: first part of the path of all that takes a session; nobody can guess it.
        live: tells open pages what happens.
    """
    web = _Web(board, sessions=sessions, base=f"/{place}/", live=live)
    return Starlette(
        routes=web.routes(),
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"], www_redirect=False),
            Middleware(guard.Guard, sessions=sessions, place=place),
        ],
    )


class _Web:
    """The addresses of one dashboard."""

    def __init__(self, board: Dashboard, *, sessions: Sessions, base: str, live: Live) -> None:
        self._board, self._sessions, self._base, self._live = board, sessions, base, live
        self._frame = Frame(board)

    def routes(self) -> list[Route]:
        """Everything that has an address. What stands below the place needs a session, see `Guard`."""
        base = self._base
        return [
            Route("/", self._front, methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/static/{name}", self._static, methods=["GET"]),
            Route(f"{base}{EVENTS}", self._events, methods=["GET"]),
            Route(f"{base}{LOGOUT}", self._logout, methods=["POST"]),
            *(Route(f"{base}{view.path}", self._endpoint(view), methods=[view.method]) for view in self._board.views),
        ]

    async def _front(self, _request: Request) -> Response:
        return self._door(is_wrong=False)

    def _door(self, *, is_wrong: bool) -> Response:
        shown = Shown(template="login.html.j2", title="Log in", values={"is_wrong": is_wrong})
        return HTMLResponse(self._frame.page(shown), status_code=403 if is_wrong else 200)

    async def _login(self, request: Request) -> Response:
        """Exchange the key for a session, whose cookie goes to this place alone."""
        form = await guard.form_of(request)
        session = None if form is None else self._sessions.open(form.get("key", ""))
        if session is None:
            return self._door(is_wrong=True)
        answer = RedirectResponse(self._base, status_code=303)
        answer.set_cookie(guard.COOKIE, session, path=self._base, httponly=True, samesite="strict")
        return answer

    async def _logout(self, request: Request) -> Response:
        form = await guard.form_of(request)
        if form is None or not guard.has_word(request, form):
            return self._refused(request)
        self._sessions.close(guard.session_of(request.scope))
        answer = RedirectResponse("/", status_code=303)
        answer.delete_cookie(guard.COOKIE, path=self._base, httponly=True, samesite="strict")
        return answer

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return Response(status_code=404)
        return FileResponse(STATIC / name, media_type=FILES[name])

    async def _events(self, _request: Request) -> Response:
        return StreamingResponse(self._live.told(), media_type=MEDIA_TYPE)

    def _endpoint(self, view: View) -> Endpoint:
        """Let a view answer, in a thread: it reads files."""

        async def answer(request: Request) -> Response:
            form: dict[str, str] | None = {}
            if view.method == "POST":
                form = await guard.form_of(request)
                if form is None or not guard.has_word(request, form):
                    return self._refused(request)
            asked = Asked(names=dict(request.path_params), form=form or {})
            try:
                return await run_sync(lambda: self._answered(request, view.answer(asked)))
            except Exception as err:  # noqa: BLE001 - a page fails, the daemon does not; nothing foreign is shown
                if not isinstance(err, PartsongError):
                    EventLog().failure("page_failed", err)
                return self._shown_trouble(request, err)

        return answer

    def _answered(self, request: Request, answer: Answer) -> Response:
        match answer:
            case Shown():
                return self._page(request, answer)
            case Moved():
                return RedirectResponse(f"{self._base}{answer.to}", status_code=303)
            case Sent(body=Path() as file):
                return FileResponse(file, media_type=answer.media_type, filename=answer.name)
            case Sent(body=bytes() as data):
                headers = {"content-disposition": f'attachment; filename="{answer.name}"'}
                return Response(data, media_type=answer.media_type, headers=headers)
        raise AssertionError("every kind of answer is listed")

    def _page(self, request: Request, shown: Shown, *, code: int = 200) -> Response:
        word = form_word(guard.session_of(request.scope))
        page = self._frame.page(shown, base=self._base, here=request.url.path, word=word)
        return HTMLResponse(page, status_code=code)

    def _refused(self, request: Request) -> Response:
        return self._shown_trouble(request, _NoForm("the form was not made by this page; nothing was done"))

    def _shown_trouble(self, request: Request, error: Exception) -> Response:
        trouble = trouble_of(error)
        code = 403 if isinstance(error, _NoForm) else trouble.status
        shown = Shown(template="trouble.html.j2", title="Not done", values={"trouble": trouble})
        return self._page(request, shown, code=code)


class _NoForm(PartsongError):
    """A form that no page of this session holds."""
