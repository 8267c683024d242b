"""The language in which people are spoken to: English, or Chinese where the locale or --lang says so."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

LANGUAGES = ("en", "zh")

#: A text in English and in Chinese.
Words = tuple[str, str]

_asked: list[str] = []  # by --lang, the last one counts


def ask_for(language: str | None) -> None:
    """From here on this process speaks `language`; None: as the locale says."""
    _asked[:] = [language] if language else []


def spoken() -> str:
    """en or zh."""
    if _asked:
        return _asked[0]
    locale = next(
        (os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), ""
    )
    return "zh" if locale.lower().startswith("zh") else "en"


def write_anything() -> None:
    """Let standard output and error write what their encoding does not have as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def said(english: str, chinese: str) -> str:
    """One of the two."""
    return chinese if spoken() == "zh" else english


def asked_in(argv: Sequence[str]) -> str | None:
    """The language that --lang names on a command line that is not read yet: its help is in that language too."""
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == "--lang":
            following = value if equals else next(iter(argv[place + 1 :]), "")
            return following if following in LANGUAGES else None
    return None


_HEADINGS = {"options": "选项", "positional arguments": "参数"}


class SpokenHelp(argparse.HelpFormatter):
    """Help whose headings are in the language of what stands below them."""

    def start_section(self, heading: str | None) -> None:
        """See argparse."""
        super().start_section(said(heading or "", _HEADINGS.get(heading or "", heading or "")))


def add_help(parser: argparse.ArgumentParser) -> None:
    """The options --help, which argparse would say in English, and --lang."""
    parser.add_argument("-h", "--help", action="help", help=said("show this and exit", "显示此帮助并退出"))
    parser.add_argument(
        "--lang",
        choices=LANGUAGES,
        help=said(
            "language of help, advice and reasons (default: as the locale says)",
            "帮助、建议和原因所用的语言（默认取决于系统语言环境）",
        ),
    )


#: What a kind of error (`common.errors.JobError`) means, in Chinese; the reason itself follows in English.
KINDS_IN_CHINESE = {
    "configuration": "命令行或配置文件有误，请按下面的原因改正（逐行列出）",
    "data": "图像或标注有问题，请按下面的原因改正",
    "checkpoint": "检查点文件不能用于此任务，原因如下",
    "pretrained": "预训练参数缺失、损坏或不匹配，原因如下",
    "model": "模型文件无法使用，原因如下",
    "training": "训练数值失常，无法继续；通常减小 train.lr 即可。原因如下",
    "device": "所要求的设备不可用，原因如下",
    "log_dir": "输出文件夹不能使用或磁盘已满，原因如下",
    "port": "进度端口不能使用，原因如下",
    "worker": "数据进程多次意外结束，原因如下",
    "memory": "内存不足：请减小 train.batch_size、输入尺寸或网络。原因如下",
    "internal": "程序内部错误，原因如下",
    "crash": "底层代码使进程意外结束，原因如下",
    "killed": "进程被强制结束，原因如下",
    "rank": "多进程训练中有进程丢失或无法通信，原因如下",
}
