# The image of a node: the static binary and nothing else. There is no shell, so that every act in a
# container is one of 'mlsfed'. docker/build.sh builds the binary and the context, which has
#
#   mlsfed      the binary, built without cgo
#   data/       an empty folder: what a new volume begins as, owned by the user below
#
# The root filesystem may be read-only: only /var/lib/mlsfed is written to.
FROM scratch
COPY mlsfed /mlsfed
COPY --chown=65532:65532 data /var/lib/mlsfed
USER 65532:65532
ENV MLSFED_CONFIG=/var/lib/mlsfed/mlsfed.yaml
VOLUME /var/lib/mlsfed
EXPOSE 8443 7443
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=3 CMD ["/mlsfed", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/mlsfed"]
CMD ["serve"]
