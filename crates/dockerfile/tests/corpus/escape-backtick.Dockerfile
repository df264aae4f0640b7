# escape=`
# check=skip=JSONArgsRecommended;error=true

FROM mcr.microsoft.com/windows/servercore
SHELL ["powershell", "-command"]
RUN New-Item -ItemType Directory C:\Example; `
    Copy-Item c:\a\ c:\b\

COPY testfile.txt c:\
ENV A=x`$y B="a `" b"
CMD dir c:\
