# café in an old encoding
FROM scratch
