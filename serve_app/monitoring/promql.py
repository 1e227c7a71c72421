"""PromQL over declared metrics."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.replica.metric import Counter, Gauge, Histogram, Metric


@dataclass(frozen=True, slots=True)
class PromQl:
    """Writes queries. `interval` is that of every rate; `matcher` selects series of metrics with the label `model`."""

    interval: str
    matcher: str = ""

    def rate(self, counter: Counter, *by: str, where: str = "") -> str:
        """Its growth per second."""
        return self._sum_of_rates(counter, counter.series[0], by, where)

    def share(self, part: Counter | Gauge, whole: Counter | Gauge, *by: str, where: str = "", fold: str = "sum") -> str:
        """`part`, where `where` matches, for each of `whole`: the growth of counters, or the values of gauges now."""
        return f"{self._amount(part, by, where, fold)} / {self._amount(whole, by, '', fold)}"

    def quantile(self, quantile: float, histogram: Histogram, *by: str) -> str:
        """A quantile of its values."""
        bucket, _, _ = histogram.series
        return f"histogram_quantile({quantile:g}, {self._sum_of_rates(histogram, bucket, ('le', *by), '')})"

    def mean(self, histogram: Histogram, *by: str) -> str:
        """The mean of its values."""
        _, count, total = histogram.series
        return f"{self._sum_of_rates(histogram, total, by, '')} / {self._sum_of_rates(histogram, count, by, '')}"

    def value(self, gauge: Gauge, *by: str, where: str = "", fold: str = "sum") -> str:
        """Its value now, with one fold over all other labels."""
        return f"{fold}{_by(by)} ({gauge.series[0]}{self._selector(gauge, where)})"

    def _amount(self, metric: Counter | Gauge, by: tuple[str, ...], where: str, fold: str) -> str:
        if isinstance(metric, Gauge):
            return self.value(metric, *by, where=where, fold=fold)
        return self.rate(metric, *by, where=where)

    def _sum_of_rates(self, metric: Metric, series: str, by: tuple[str, ...], where: str) -> str:
        return f"sum{_by(by)} (rate({series}{self._selector(metric, where)}[{self.interval}]))"

    def _selector(self, metric: Metric, where: str) -> str:
        matchers = [self.matcher if "model" in metric.labels else "", where]
        inside = ", ".join(filter(None, matchers))
        return f"{{{inside}}}" if inside else ""


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
