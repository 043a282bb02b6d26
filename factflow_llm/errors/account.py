"""What the refusal of a request says of the account or the place instead, where no code does, in many languages.

A bad key told as a 400, arrears, a suspended account, a country that is not served: every other call fails likewise.
"""

from __future__ import annotations

import re

from factflow_llm.errors.metadata import ErrorReason

_OPENING = 300  # further on, and between quotation marks, an error may echo a prompt
_QUOTED = re.compile(r"'[^']{0,2000}'|\"[^\"]{0,2000}\"|`[^`]{0,2000}`|“[^”]{0,2000}”|«[^»]{0,2000}»")

_ARREARS = (
    *(r"credit balance is too low", r"you have reached your specified", r"in arrears", r"arrearage", r"overdue"),
    *(r"past[ -]due", r"in good standing", r"past invoices", r"unpaid", r"failure to pay", r"payment (?:is )?required"),
    *(r"spend(?:ing)? limit", r"\b(?:recharge|top[ -]?up)\b", r"ran? out of (?:credits|funds)"),
    (
        r"(?:insufficient|not enough|no|low|zero|negative|out of|exhausted)(?: (?:account|prepaid|your))?"
        r" (?:balance|credits?|funds)\b"
    ),
    r"balance (?:is )?(?:insufficient|too low|not enough|exhausted|negative)",
    r"(?:used|consumed) (?:up )?all (?:of )?(?:your |available )*credits",
    *("欠费", "欠費", "欠款", "余额不足", "餘額不足", "余额已", "充值", "儲值", "额度已?(?:不足|用尽|用完|耗尽)"),
    *("残高が?不足", "残高が足り", "未払い", "料金の支払", "잔액(?:이)? ?부족", "미납", "연체", "크레딧(?:이)? ?부족"),
    *("недостаточно (?:средств|кредитов)", "задолженност", "баланс исчерпан"),
    *("guthaben (?:reicht|ist|aufgebraucht|nicht)", "kein guthaben", "zahlungsrückstand", "offene rechnung"),
    *("solde insuffisant", "crédits? insuffisants?", r"impayée?s?\b", "pago pendiente", "saldo insuficiente"),
    *("créditos? insuficientes?", "saldo insufficiente", "credito insufficiente", "yetersiz bakiye"),
    *("saldo tidak cukup", "onvoldoende saldo", "niewystarczające środki", "số dư không đủ"),
)
_BAD_KEY = (
    (
        r"\bapi[ _-]?keys?\b.{0,24}?\b(?:not valid|invalid|incorrect|expired|disabled|revoked|inactive|leaked|not found"
        r"|does not exist|doesn't exist|is missing|wrong|not recogni[sz]ed)"
    ),
    (
        r"(?:invalid|incorrect|wrong|expired|malformed|unknown|missing|no|disabled|revoked)"
        r"(?: or (?:invalid|incorrect|expired|missing))? (?:\w+ )?(?:api[ _-]?key|credentials?|authorization header)\b"
    ),
    r"(?:invalid|expired|incorrect) (?:access|auth\w*|bearer|session) tokens?\b",
    r"access token (?:is )?(?:invalid|expired)",
    *("authentication fail", "not authenticated", "login fail", "令牌已?(?:无效|失效|过期|错误)"),
    *("无效的?(?:令牌|密钥|api)", "密钥(?:无效|错误|失效|过期|不存在)", "api ?key ?(?:无效|错误|失效|过期|不正确)"),
    *(
        "(?:鉴权|认证|身份验证)失败",
        "apiキーが(?:無効|正しく)",
        "認証に失敗",
        "api 키가 (?:유효|잘못)",
        "인증(?:에)? ?실패",
    ),
    *("неверный (?:api[ -]?)?ключ", "ungültiger api", "api[ -]?schlüssel (?:ist )?(?:ungültig|falsch)"),
    *("clé (?:d'?)?api (?:est )?(?:invalide|incorrecte)", "clave (?:de )?api (?:no es válida|inválida|incorrecta)"),
    "chave (?:de )?api inválida",
)
_SUSPENDED = (
    (
        r"\b(?:account|organi[sz]ation|workspace|project|subscription|tenant)\b.{0,48}?\b"
        r"(?:is|was|has been|have been|been|currently|temporarily|permanently) (?:\w+ )?"
        r"(?:suspended|deactivated|disabled|restricted|terminated|banned|blocked|frozen|locked|closed|inactive)"
    ),
    r"\b(?:user|team) (?:is|was|has been) (?:\w+ )?(?:suspended|deactivated|banned)",
    r"(?:suspended|deactivated|disabled|banned|frozen|locked) (?:\w+ )?(?:account|organi[sz]ation|workspace|project)",
    *("(?:账户|账号|帐户|帐号).{0,8}(?:停用|冻结|封禁|禁用|锁定|注销)", "アカウントが?(?:停止|凍結|無効)"),
    *("계정이? ?(?:정지|차단|비활성)", "аккаунт (?:заблокирован|приостановлен)"),
)
_ELSEWHERE = (
    (
        r"(?<!parameter )(?<!field )(?<!argument )\b(?:location|country|region|territory)\b.{0,32}?"
        r"(?:\bnot (?:currently )?(?:supported|available|allowed|permitted|eligible)|unsupported|restricted|prohibited)"
    ),
    (
        r"(?:not (?:currently )?(?:supported|available|allowed|permitted|offered)|unavailable|unsupported|restricted)"
        r" (?:in|for|from|to) (?:users in )?(?:your|this|the|that) (?:\w+ )?(?:location|country|region|territory|area)"
    ),
    r"(?:unsupported|restricted) (?:country|region|territory|location)",
    *("(?:地区|国家|区域).{0,8}(?:不支持|不可用|受限)", "不支持.{0,6}(?:地区|国家|区域)", "お住まいの(?:地域|国)"),
)
_WORDINGS = tuple(
    (re.compile("|".join(phrases)), reason)
    for phrases, reason in (
        (_ARREARS, ErrorReason.QUOTA),
        (_BAD_KEY, ErrorReason.AUTHENTICATION),
        (_SUSPENDED, ErrorReason.PERMISSION),
        (_ELSEWHERE, ErrorReason.PERMISSION),
    )
)


def reason_of_account(message: str) -> ErrorReason | None:
    """Say what a message, in lower case, tells of the account or the place; ``None`` when it tells nothing."""
    opening = _QUOTED.sub("", message)[:_OPENING]
    return next((reason for pattern, reason in _WORDINGS if pattern.search(opening)), None)
