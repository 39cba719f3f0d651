"""What the dashboard says, in English and in Chinese. Pure."""

from typing import Any

from .texts_zh import PROBLEMS

LANGUAGES = {"en": "English", "zh": "中文"}
#: The languages as documents name them, BCP 47.
TAGS = {"en": "en", "zh": "zh-Hans"}

#: Each text in the order of ``LANGUAGES``; singular and plural of English are parted by " | ".
TEXTS: dict[str, tuple[str, str]] = {
    "language": ("Language", "语言"),
    "jump": ("On this page", "本页内容"),
    "skip": ("Skip to the endpoints", "跳到端点列表"),
    "endpoint_service": ("Endpoint service", "端点配置服务"),
    "source": ("Source", "来源"),
    # The state line.
    "state": ("State", "状态"),
    "state.fresh": ("Fresh", "最新"),
    "state.stale": ("Stale", "陈旧"),
    "state.rejected": ("Rejected", "已拒绝"),
    "state.empty": ("Empty", "无列表"),
    "state.fresh.means": (
        "What is served is what the source holds.",
        "当前提供的列表与来源一致。",
    ),
    "state.stale.means": (
        "The last good list is served: no good one was seen since the start, or the source"
        " cannot be looked at.",
        "正在提供上一份正确的列表：启动以来没有读到正确的内容，或无法读取来源。",
    ),
    "state.rejected.means": (
        "The newest text was refused. What was served before stays.",
        "最新内容被拒绝，继续提供之前的列表。",
    ),
    "state.empty.means": (
        "No good list was ever seen. Empty lists are served.",
        "从未读到正确的列表，目前提供空列表。",
    ),
    "state.fresh.partly": (
        "The other entries of the source are served.",
        "来源中的其余条目照常提供。",
    ),
    "since": ("In this state since", "此状态始于"),
    "served_since": ("Served since", "开始提供于"),
    "etag": ("ETag", "ETag"),
    "counts": ("Endpoints", "端点数"),
    "counts.value": ("{api} API, {socketio} Socket.io", "API {api} 个，Socket.io {socketio} 个"),
    "last_reload": ("Last reload", "最近一次加载"),
    "never": ("never", "从未"),
    "watcher": ("Following by", "监视方式"),
    "watcher.inotify": ("file events (inotify)", "文件事件（inotify）"),
    "watcher.etcd": ("a watch on the key in etcd", "监视 etcd 中的键"),
    "watcher.poll": ("polling", "轮询"),
    "watcher.dead": ("{mode} – has stopped", "{mode}——已停止"),
    "probing": ("Health", "健康状况"),
    "probing.off": ("not probed", "未启用探测"),
    "probing.value": (
        "{up} of {all} up, probed every {seconds} s",
        "{all} 个中 {up} 个可用，每 {seconds} 秒探测一次",
    ),
    "verdict.nothing": ("The list is empty", "列表为空"),
    "verdict.none_up": ("No endpoint is up", "所有端点都不可用"),
    "verdict.kind_down": ("No {kind} endpoint is up", "{kind} 端点全部不可用"),
    "verdict.some_down": (
        "{n} of {all} endpoints is down | {n} of {all} endpoints are down",
        "{all} 个端点中有 {n} 个不可用",
    ),
    "verdict.some_of_kind_down": (
        "{n} of {all} {kind} endpoints is down | {n} of {all} {kind} endpoints are down",
        "{all} 个 {kind} 端点中有 {n} 个不可用",
    ),
    "verdict.dropped": (
        "Served without {n} faulty entry | Served without {n} faulty entries",
        "已略去 {n} 个有误的条目",
    ),
    "verdict.probing_dead": ("Health checks have stopped", "健康探测已停止"),
    "verdict.unprobed": ("No health check has finished yet", "尚未完成任何健康探测"),
    "verdict.watcher_dead": (
        "Following the source has stopped: {mode}",
        "对来源的监视已停止：{mode}",
    ),
    "verdict.tokens": (
        "{n} bad line in the token file | {n} bad lines in the token file",
        "令牌文件中有 {n} 行无效",
    ),
    "probing.dead": ("nobody is probing", "探测已停止"),
    "workers": ("Workers", "工作进程"),
    "workers.agree": (
        "{n} worker, serving this list | all {n} workers serve the same list",
        "{n} 个工作进程，提供的列表一致",
    ),
    "workers.differ": (
        "{n} worker serves another list: {pids} | {n} workers serve other lists: {pids}",
        "{n} 个工作进程提供的列表不同：{pids}",
    ),
    "worker.agrees": ("agrees", "一致"),
    "worker.differs": ("differs", "不一致"),
    "worker": ("Process", "进程"),
    # Problems.
    "problems": ("Problems", "问题"),
    "problems.none": ("Nothing is wrong in the source.", "来源中没有问题。"),
    "problems.errors": ("{n} error | {n} errors", "{n} 个错误"),
    "problems.warnings": ("{n} warning | {n} warnings", "{n} 个警告"),
    "problems.first": ("the first {n} are shown", "仅显示前 {n} 个"),
    "problems.all": ("Show all {n}", "显示全部 {n} 个"),
    "severity.error": ("error", "错误"),
    "severity.warning": ("warning", "警告"),
    "place": ("line {line}, column {column}", "第 {line} 行第 {column} 列"),
    # Endpoints.
    "endpoints": ("Endpoints", "端点"),
    "endpoints.none": ("There are no endpoints.", "没有端点。"),
    "endpoints.no_match": ("No endpoint matches this filter.", "没有符合筛选条件的端点。"),
    "endpoints.shown": (
        "{shown} of {matching} shown. Filter to find others.",
        "显示 {matching} 个中的 {shown} 个，可用筛选查找其余端点。",
    ),
    "endpoints.matching": ("{matching} of {all} match", "{all} 个中有 {matching} 个符合"),
    "endpoints.all": ("{n} endpoint | {n} endpoints", "共 {n} 个端点"),
    "filter": ("Filter by URL", "按 URL 筛选"),
    "filter.go": ("Filter", "筛选"),
    "only": ("Show", "显示"),
    "only.": ("all endpoints", "全部端点"),
    "only.unhealthy": ("only what is not healthy", "仅显示不健康的"),
    "sort": ("Sort by", "排序"),
    "sort.": ("order of the list", "列表顺序"),
    "sort.priority": ("priority", "优先级"),
    "sort.url": ("URL", "URL"),
    "sort.health": ("health, worst first", "健康状况，最差在前"),
    "sort.latency": ("latency, slowest first", "延迟，最慢在前"),
    "kind": ("Kind", "类型"),
    "kind.api": ("API", "API"),
    "kind.socketio": ("Socket.io", "Socket.io"),
    "priority": ("Priority", "优先级"),
    "url": ("URL", "URL"),
    "server_name": ("certificate for {name}", "证书名 {name}"),
    "health": ("Health", "健康"),
    "latency": ("Latency", "延迟"),
    "health.unknown": ("unknown", "未知"),
    "health.healthy": ("healthy", "健康"),
    "health.suspect": ("suspect", "可疑"),
    "health.unhealthy": ("unhealthy", "不健康"),
    "health.recovering": ("recovering", "恢复中"),
    "health.unprobed": ("not probed", "未探测"),
    "milliseconds": ("{n} ms", "{n} 毫秒"),
    "sparkline": (
        "the last check: {low} to {high} ms, {failed} failed"
        " | the last {n} checks: {low} to {high} ms, {failed} failed",
        "最近 {n} 次检查：{low} 至 {high} 毫秒，失败 {failed} 次",
    ),
    "sparkline.failed": (
        "the last check failed | the last {n} checks failed",
        "最近 {n} 次检查均失败",
    ),
    "copy": ("Copy", "复制"),
    "copy.url": ("Copy {url}", "复制 {url}"),
    "copied": ("Copied", "已复制"),
    "copy.failed": ("Could not copy", "无法复制"),
    # QR.
    "qr": ("QR code for the app", "供应用扫描的二维码"),
    "qr.format": ("Format", "格式"),
    "qr.format.": ("what fits", "自动选择"),
    "qr.format.full": ("full: with priorities", "完整：含优先级"),
    "qr.format.list": ("list: URLs only", "列表：仅 URL"),
    "qr.format.single": ("single: the best of each kind", "单个：每类最优"),
    "qr.room": ("Room (optional)", "房间（可选）"),
    "qr.limit": ("At most so many of each kind (optional)", "每类最多个数（可选）"),
    "qr.show": ("Show", "显示"),
    "qr.alt": (
        "QR code with the endpoints, for the app to scan; opens large",
        "包含端点的二维码，供应用扫描；点击放大",
    ),
    "qr.download": ("Download {name}", "下载 {name}"),
    "qr.text": ("as text (JSON)", "文本（JSON）"),
    "qr.none": ("There is nothing to hand on yet.", "目前没有可供扫描的内容。"),
    "qr.problem": ("No QR code: {reason}", "无法生成二维码：{reason}"),
    # History.
    "history": ("Reload history", "加载历史"),
    "history.none": ("Nothing was loaded yet.", "尚未加载过。"),
    "history.newest": ("{n} reload | {n} reloads, newest first", "共 {n} 次，最新在前"),
    "trigger.start": ("at start", "启动"),
    "trigger.watch": ("file event", "文件事件"),
    "trigger.poll": ("poll", "轮询"),
    "trigger.sighup": ("SIGHUP", "SIGHUP"),
    "trigger.etcd": ("etcd", "etcd"),
    "trigger.api": ("reload route", "重新加载接口"),
    "result.applied": ("applied", "已应用"),
    "result.unchanged": ("unchanged", "无变化"),
    "result.rejected": ("rejected", "已拒绝"),
    "result.error": ("error", "出错"),
    "change": (
        "{added} added, {removed} removed, {changed} changed",
        "新增 {added}，移除 {removed}，变更 {changed}",
    ),
    "change.added": ("added", "新增"),
    "change.removed": ("removed", "移除"),
    "change.changed": ("changed", "变更"),
    "change.more": ("and {n} more", "另有 {n} 个"),
    # The page itself.
    "live": ("Live", "实时"),
    "lost": (
        "The server does not answer. What is shown is as of {time}; trying again.",
        "服务器没有响应。显示的是 {time} 的状态，正在重试。",
    ),
    "lost.title": ("No answer", "无响应"),
    "refused.title": ("Logged out", "已退出登录"),
    "refused": (
        "The server no longer accepts this login (HTTP {status}). Reload the page to log in again.",
        "服务器不再接受当前登录（HTTP {status}）。请重新加载页面以重新登录。",
    ),
    "back": ("The server answers again.", "服务器已恢复响应。"),
    "no_script": (
        "JavaScript is off. This is the state of {time}; reload the page for the newest.",
        "JavaScript 已关闭。这是 {time} 的状态，重新加载页面可查看最新状态。",
    ),
    "documents": ("For programs", "供程序使用"),
}


class Texts:
    """The texts in one language.

    Args:
        language: A key of ``LANGUAGES``.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.tag = TAGS[language]
        self._index = list(LANGUAGES).index(language)

    def __call__(self, key: str, n: int | None = None, **values: Any) -> str:
        """Give a text with its values filled in.

        Args:
            key: A key of ``TEXTS``.
            n: What is counted; chooses between singular and plural.
            values: What else the text names.
        """
        text = TEXTS[key][self._index]
        singular, _, plural = text.partition(" | ")
        if plural and n != 1:
            singular = plural
        if n is not None:
            values["n"] = f"{n:,}"
        return singular.format(**values)

    def word(self, group: str, name: str) -> str:
        """Give the text for a word of the status document, or the word where it is new."""
        key = f"{group}.{name}"
        return self(key) if key in TEXTS else name

    def problem(self, code: str) -> str | None:
        """Say what a problem's code means, where the problem's own message is not enough."""
        return PROBLEMS.get(code) if self.language == "zh" else None
