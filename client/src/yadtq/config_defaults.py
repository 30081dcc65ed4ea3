"""The defaults of all options under their documented names; `yadtq.config` has them too, and says what each means.

Used in every process; imports nothing.
"""
# ---- Kafka ----------------------------------------------------------------------------------------------------------
KAFKA_HOST = "localhost"
KAFKA_PORT = 9092
KAFKA_SERVERS = ""
KAFKA_TASK_TOPIC = "yadtq_tasks"
KAFKA_HEARTBEAT_TOPIC = "worker-heartbeats"
KAFKA_DEAD_LETTER_TOPIC = "yadtq_dead_letters"
KAFKA_DELAYED_TOPIC = "yadtq_delayed"
KAFKA_GROUP = "yadtq"
KAFKA_SECURITY_PROTOCOL = "PLAINTEXT"
KAFKA_SASL_MECHANISM = ""
KAFKA_SASL_USERNAME = ""
KAFKA_SASL_PASSWORD = ""
KAFKA_SASL_PASSWORD_FILE = ""
KAFKA_SSL_CA_FILE = ""
KAFKA_SSL_CERT_FILE = ""
KAFKA_SSL_KEY_FILE = ""
KAFKA_REPLICATION_FACTOR = -1
KAFKA_MIN_INSYNC_REPLICAS = 0
NUM_PARTITIONS = 4
TRANSPORT = "auto"
KAFKA_REQUEST_TIMEOUT_MS = 10_000
KAFKA_SESSION_TIMEOUT_MS = 6_000
KAFKA_MAX_MESSAGE_BYTES = 1_048_588
LINGER_MS = 0
# ---- Redis ----------------------------------------------------------------------------------------------------------
REDIS_HOST = "localhost"
REDIS_PORT = 6379
REDIS_DB = 0
REDIS_USERNAME = ""
REDIS_PASSWORD = ""
REDIS_PASSWORD_FILE = ""
REDIS_SSL = False
REDIS_SSL_CA_FILE = ""
REDIS_SSL_CERT_FILE = ""
REDIS_SSL_KEY_FILE = ""
REDIS_SENTINELS = ""
REDIS_SENTINEL_MASTER = "yadtq"
REDIS_SENTINEL_USERNAME = ""
REDIS_SENTINEL_PASSWORD = ""
REDIS_SENTINEL_PASSWORD_FILE = ""
REDIS_TIMEOUT_S = 5.0
RESULT_TTL_S = 86_400
DURABILITY = "auto"
# ---- submitting -----------------------------------------------------------------------------------------------------
SUBMIT_TIMEOUT_S = 30.0
MAX_IN_FLIGHT = 100_000
MAX_PAYLOAD_BYTES = 900_000
MAX_BACKLOG = 0
ON_BACKLOG = "refuse"
# ---- running tasks --------------------------------------------------------------------------------------------------
TASKS: tuple[str, ...] = ()
TASK_TIMEOUT = 10.0
TASK_TIMEOUT_GRACE_S = 5.0
WORKER_THREADS = 1
ISOLATED_CONCURRENCY = 0
FETCH_BATCH = 1000
PREFETCH = 4000
PROCESSING_AFTER_MS = 50
AUTO_COMMIT_INTERVAL_MS = 1000
MAX_CRASHES = 3
MAX_LONE = 10
TASK_MAX_RETRIES = 0
RETRY_BACKOFF_S = 1.0
RETRY_BACKOFF_MAX_S = 600.0
RETRY_JITTER = 0.5
KEYED_RETRY_MAX_S = 30.0
# ---- supervising ----------------------------------------------------------------------------------------------------
ASSIGNMENT = "group"
PARTITIONS: tuple[int, ...] = ()
MAX_WORKERS = 0
HOST_NAME = ""
HEARTBEAT_INTERVAL = 5.0
MISSED_HEARTBEATS_THRESHOLD = 3
MAX_WORKER_RETRIES = 3
RETRY_WINDOW_S = 60.0
COOL_DOWN_S = 60.0
PROGRESS_TIMEOUT_S = 60.0
WORKER_MAX_TASKS = 0
WORKER_MAX_MEMORY_MB = 0
WORKER_MAX_AGE_S = 0.0
RECYCLE_JITTER = 0.2
DRAIN_TIMEOUT_S = 30.0
CONTROL_SOCKET = ""
PID_FILE = ""
# ---- logging --------------------------------------------------------------------------------------------------------
LOG_LEVEL = "INFO"
LOG_FORMAT = "auto"
LOG_FILE = ""
