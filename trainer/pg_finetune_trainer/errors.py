"""Errors as the OpenAI protocol words them."""


class ApiError(Exception):
    """Answered as `{"error": {message, type, param, code}}` with this HTTP status."""

    def __init__(self, status: int, code: str | None, message: str, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param

    def body(self) -> dict:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_request(code: str, message: str, param: str | None = None) -> ApiError:
    return ApiError(400, code, message, param)


def not_found(what: str, name: str, param: str) -> ApiError:
    code = "model_not_found" if what == "model" else "resource_not_found"
    return ApiError(404, code, f"{what} {name!r} does not exist", param)
