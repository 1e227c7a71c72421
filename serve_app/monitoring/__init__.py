"""What watches a service: the Grafana dashboard and the Prometheus alerts, made from the declarations of its metrics."""
