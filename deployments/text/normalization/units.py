"""Units, percentages and degrees in English."""

from __future__ import annotations

import re

from deployments.text.normalization.number_words import AMOUNT, NUMBER, is_one, spoken_amount
from deployments.text.normalization.written_numbers import VULGAR

_ALIKE = (
    "Hz hertz|kHz kilohertz|MHz megahertz|GHz gigahertz|kbps kilobits per second|Mbps megabits per second"
    "|Mbit/s megabits per second|Gbps gigabits per second|Gbit/s gigabits per second|MB/s megabytes per second"
    "|GB/s gigabytes per second|mph miles per hour|mpg miles per gallon|km/h kilometers per hour"
    "|kph kilometers per hour|kmh kilometers per hour|m/s meters per second|m/s² meters per second squared"
    "|fps frames per second|rpm revolutions per minute|bpm beats per minute|dB decibels|dpi dots per inch"
    "|ppm parts per million|psi pounds per square inch|hp horsepower|px pixels|lux lux"
)
_REGULAR = (
    "km kilometer|cm centimeter|mm millimeter|nm nanometer|µm micrometer|μm micrometer|m meter|kg kilogram"
    "|mg milligram|g gram|µg microgram|mcg microgram|lb pound|lbs pound|oz ounce|mi mile|yd yard|yds yard"
    "|ml milliliter|mL milliliter|cl centiliter|dl deciliter|l liter|L liter|gal gallon|kB kilobyte|KB kilobyte"
    "|MB megabyte|GB gigabyte|TB terabyte|PB petabyte|kb kilobit|Mb megabit|Gb gigabit|KiB kibibyte|MiB mebibyte"
    "|GiB gibibyte|TiB tebibyte|hr hour|hrs hour|h hour|min minute|mins minute|sec second|secs second|s second"
    "|ms millisecond|µs microsecond|μs microsecond|ns nanosecond|kWh kilowatt hour|Wh watt hour|kW kilowatt"
    "|MW megawatt|GW gigawatt|W watt|kV kilovolt|V volt|mV millivolt|mA milliamp|mAh milliamp hour|kJ kilojoule"
    "|J joule|kcal kilocalorie|cal calorie|kPa kilopascal|hPa hectopascal|ha hectare|MP megapixel|pts point"
    "|tbsp tablespoon|tsp teaspoon|kN kilonewton|N newton|kΩ kilohm|Ω ohm|mol mole|yr year|yrs year|wk week|wks week"
    "|mo month"
)
_POWERS = {"²": "square", "2": "square", "³": "cubic", "3": "cubic"}
_LENGTHS = ("km", "cm", "mm", "m", "mi", "ft", "in", "yd")


def _named(entries: str, ending: str) -> dict[str, tuple[str, str]]:
    """Signs and their names for one and for many, of entries such as `km kilometer|cm centimeter`."""
    pairs = (entry.partition(" ") for entry in entries.split("|"))
    return {sign: (name, name + ending) for sign, _, name in pairs}


_UNITS = _named(_ALIKE, "") | _named(_REGULAR, "s")
_UNITS |= {
    "ft": ("foot", "feet"),
    "°": ("degree", "degrees"),
    **dict.fromkeys(("°C", "ºC", "℃"), ("degree Celsius", "degrees Celsius")),
    **dict.fromkeys(("°F", "℉"), ("degree Fahrenheit", "degrees Fahrenheit")),
    "sq ft": ("square foot", "square feet"),
    "sq mi": ("square mile", "square miles"),
    "sq m": ("square meter", "square meters"),
    "fl oz": ("fluid ounce", "fluid ounces"),
}
_INCH = ("inch", "inches")
for _sign in _LENGTHS:
    for _power, _word in _POWERS.items():
        _one, _many = _UNITS.get(_sign, _INCH)
        _UNITS[_sign + _power] = (f"{_word} {_one}", f"{_word} {_many}")

_NAMES = "|".join(re.escape(sign) for sign in sorted(_UNITS, key=len, reverse=True))
_SIGN = r"(?<![\w.,/])(?:([-−+])|([~≈]\s?))?"
_QUANTITY = re.compile(rf"{_SIGN}({AMOUNT})(?:\s|(-))?({_NAMES})(?:(?<=[a-z])\.(?= [a-z]))?(?![\w²³°/]|\.\w)")
_PART_OF_UNIT = re.compile(
    rf"(\d)?(\s?[{VULGAR}]|\s\d/\d{{1,2}}|(?<![\w./,])\d/\d{{1,2}})\s?({_NAMES})(?![\w²³°/]|\.\w)"
)
_PER_UNIT = re.compile(rf"{_SIGN}({AMOUNT})\s?()({_NAMES})\s?/\s?({_NAMES}|day|week|month|year|person|capita)(?!\w)")
_PERCENT = re.compile(rf"{_SIGN}({AMOUNT})\s?([%‰])")
_RANGED = re.compile(r"(?<=\d)\s?([%°])(?=\s?[-–]\s?\d{1,4}(?:\.\d+)?\s?\1)")
_HEIGHT = re.compile(r"(?<![\w.,])(\d{1,2})\s?(?:'|’|′|ft\.?)\s?(\d{1,2})\s?(?:\"|”|″|'(?!\w)|''|in\b\.?)")
_INCHES = re.compile(r"(?<![\w.,\"“])(\d{1,3}(?:\.\d+)?)(?:\s?″|\s?in\.(?=\s[a-z]|\s?$)|in\b(?=\s|[,;:)]|$))")
_INCH_SIGN = re.compile(r"(?<![\w.,])(\d{1,3}(?:\.\d+)?)\"")
_QUOTATION = re.compile(r"(?<!\d)\"")
_OVEN = re.compile(
    r"\b([Aa]t|[Tt]o|[Oo]f|[Oo]ver|[Uu]nder|[Aa]bout|[Aa]round|[Aa]bove|[Bb]elow|[Bb]ake|[Rr]oast|[Oo]ven) (\d{3})([CF])\b"
    r"(?![-'’#+&])"
)
_MEASURED = re.compile(
    r"\s(?:wide|tall|long|high|deep|thick|across|by|x|and|or|of|from|to|in|at|on|is|are|was|apart|away|per|for|with|than|the|a)\b"
)
_NOUN = re.compile(r"\s[a-z]")
_ARTICLE = re.compile(r"(?:^|\s)[Aa]n? $")
_SIZE = re.compile(
    rf"(?<=[\dm])\s?[x×]\s?(?=(?:(?:{NUMBER})\s?m?\s?[x×]\s?){{0,2}}(?:{NUMBER})\s?-?"
    r"(?:[ckm]?m|in|ft|inch|inches|feet|foot|centimeters?|meters?|px|pixels)\b)"
)
_ADJECTIVE = re.compile(
    r"(?<=\d)-(?=(?:mile|hour|minute|second|day|week|month|year|meter|foot|inch|pound|page|point|person)s?\b)"
)

_DEGREES = re.compile(r"(?<=\d)\s?[°º]\s?(?=[CF]\b)")
_PER = re.compile(rf"\bper ({_NAMES})(?![\w²³/])")
_ANY = re.compile(rf"[\d{VULGAR}]\s?-?[A-Za-zµμΩ°º%‰'’′\"”″℃℉]")


def read_units(text: str) -> str:
    """The text with its quantities in words."""
    text = _PER.sub(lambda match: f"per {_UNITS[match[1]][0]}", text) if "per " in text else text
    if not _ANY.search(text):
        return text
    text = _OVEN.sub(r"\1 \2°\3", _DEGREES.sub("°", text))
    text = _SIZE.sub(" by ", _RANGED.sub("", text))
    text = _PERCENT.sub(lambda match: f"{_amount(match)} {'percent' if match[4] == '%' else 'per mille'}", text)
    text = _HEIGHT.sub(lambda match: f"{spoken_amount(match[1])} foot {spoken_amount(match[2])}", text)
    text = _INCHES.sub(_inches, text)
    if not _QUOTATION.search(text):
        text = _INCH_SIGN.sub(_inches, text)
    text = _PER_UNIT.sub(lambda match: f"{_quantity(match)} per {_UNITS.get(match[6], (match[6],))[0]}", text)
    text = _QUANTITY.sub(_quantity, _PART_OF_UNIT.sub(_part_of_unit, text))
    return _ADJECTIVE.sub(" ", text)


def _amount(match: re.Match[str]) -> str:
    sign = "" if match[1] is None else "plus " if match[1] == "+" else "minus "
    return f"{'about ' if match[2] else ''}{sign}{spoken_amount(match[3])}"


def _quantity(match: re.Match[str]) -> str:
    after_article = _ARTICLE.search(match.string[max(0, match.start() - 4) : match.start()])  # "a five kilometer walk"
    return f"{_amount(match)} {_UNITS[match[5]][not (match[4] or after_article or is_one(match[3]))]}"


def _part_of_unit(match: re.Match[str]) -> str:
    """ "half a teaspoon" needs other words around it, so this is "one half teaspoon", and "one and a half teaspoons"."""
    return f"{match[1] or ''}{match[2]} {_UNITS[match[3]][match[1] is not None]}"


def _inches(match: re.Match[str]) -> str:
    number, end = match[1], match.end()
    beside_noun = _NOUN.match(match.string, end) and not _MEASURED.match(match.string, end)  # "a fifteen inch screen"
    return f"{spoken_amount(number)} {_INCH[not (beside_noun or is_one(number))]}"
