#!/usr/bin/env bash
# staggered-update.sh
set -euo pipefail

# Configuration
UPDATE_GROUPS=("dev" "infrastructure" "critical" "management")
STAGGER_DELAY=30m
MAX_PARALLEL=3

# Log setup
LOG_DIR="/var/log/lab-updates"
LOG_FILE="$LOG_DIR/update-$(date +%Y%m%d-%H%M%S).log"
exec > >(tee -a "$LOG_FILE") 2>&1

for group in "${UPDATE_GROUPS[@]}"; do
  echo "Starting update for group: $group"

  # Pre-update checks
  lab health-check --group="$group" || {
    echo "Health check failed for $group, skipping"
    continue
  }

  # Update Nix channels/flakes
  lab update prepare --group="$group"

  # Execute updates with parallelism control
  lab update execute --group="$group" --parallel="$MAX_PARALLEL"

  # Verify updates
  lab update verify --group="$group" || {
    echo "Verification failed for $group, initiating rollback"
    lab update rollback --group="$group"
    # Send alert
    lab notify --level=error --message="Update failed for $group, rolled back"
    exit 1
  }

  echo "Group $group updated successfully, waiting $STAGGER_DELAY"
  sleep "$STAGGER_DELAY"
done

echo "All groups updated successfully"
lab notify --level=info --message="Staggered update completed successfully"
